//! Users as lines of text: in a file of their own (`aclfile`), and in the configuration (`user`).

use super::user::{User, joined};
use super::users::Users;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Read a user from the words behind `user`.
fn parse(words: &[&str], all_channels: bool) -> Result<User, String> {
    let Some((name, rules)) = words.split_first() else {
        return Err("line should start with user keyword followed by the username".into());
    };
    let mut user = User::new(name.as_bytes(), all_channels);
    let rules = joined(rules.iter().map(|rule| rule.as_bytes()))
        .map_err(|rule| format!("Unmatched parenthesis in selector definition starting at '{}'", lossy(&rule)))?;
    for rule in rules {
        user.apply(&rule, all_channels).map_err(|wrong| format!("{} ('{}')", wrong.text(), lossy(&rule)))?;
    }
    Ok(user)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all<'a>(
    lines: impl Iterator<Item = &'a str>,
    keyword: bool,
    all_channels: bool,
    place: impl Fn(usize) -> String,
) -> Result<Vec<User>, String> {
    let (mut users, mut wrong): (Vec<User>, Vec<String>) = (Vec::new(), Vec::new());
    for (number, line) in lines.enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let words = match words.as_slice() {
            [] => continue,
            [first, ..] if first.starts_with('#') => continue,
            ["user", rest @ ..] if keyword => rest,
            _ if keyword => &[],
            words => words,
        };
        match parse(words, all_channels) {
            Ok(user) if users.iter().any(|each| each.name == user.name) => {
                wrong.push(format!("{}: Duplicate user '{}' found. ", place(number + 1), lossy(&user.name)));
            }
            Ok(user) => users.push(user),
            Err(why) => wrong.push(format!("{}: {why}. ", place(number + 1))),
        }
    }
    if wrong.is_empty() { Ok(users) } else { Err(wrong.concat()) }
}

/// The users of the setting `user`: a line each, a name and its rules.
pub fn of_setting(text: &str, all_channels: bool) -> Result<Vec<User>, String> {
    all(text.lines(), false, all_channels, |number| format!("user {number}"))
        .map_err(|wrong| wrong.trim_end().to_owned())
}

/// The users as the setting `user` says them.
pub fn to_setting(users: &Users) -> String {
    let lines = users.all().map(|user| lossy(&user.told()["user ".len()..]));
    lines.collect::<Vec<_>>().join("\n")
}

/// The users of a file.
pub fn load(path: &str, all_channels: bool) -> Result<Vec<User>, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("Error loading ACLs, opening file '{path}': {error}"))?;
    all(text.lines(), true, all_channels, |number| format!("{path}:{number}")).map_err(|wrong| {
        format!("{wrong}WARNING: ACL errors detected, no change to the previously active ACL rules was performed")
    })
}

/// Write the users to a file, all of it or nothing.
pub fn save(path: &str, users: &Users) -> io::Result<()> {
    let path = Path::new(path);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let draft = path.with_file_name(name);
    let write = || {
        let mut options = fs::OpenOptions::new();
        // Digests of passwords are for nobody else.
        let mut file = std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600)
            .open(&draft)?;
        for user in users.all() {
            file.write_all(&user.told())?;
            file.write_all(b"\n")?;
        }
        file.sync_all()?;
        fs::rename(&draft, path)?;
        match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            Some(directory) => fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back_as_it_was_written() {
        let path = std::env::temp_dir().join(format!("users-{}.acl", std::process::id()));
        let path = path.to_str().unwrap();
        let mut users = Users::default();
        let rules: Vec<Vec<u8>> =
            ["on", ">pw", "+@read", "~a*", "(+set %W~b)"].iter().map(|rule| rule.as_bytes().to_vec()).collect();
        users.set(b"ann", &rules, false).unwrap();
        save(path, &users).unwrap();
        let mut again = Users::default();
        again.replace(load(path, false).unwrap());
        assert_eq!(to_setting(&again), to_setting(&users));
        again.replace(of_setting(&to_setting(&users), false).unwrap());
        assert_eq!(to_setting(&again), to_setting(&users));
        fs::write(path, "user ann +nosuch\n# fine\n\nuser ann on\nnobody\nuser ann\n").unwrap();
        let wrong = load(path, false).err().unwrap();
        for part in [":1: Unknown command", ":5: line should start", ":6: Duplicate user 'ann'", "no change"] {
            assert!(wrong.contains(part), "{wrong}");
        }
        fs::remove_file(path).unwrap();
    }
}
