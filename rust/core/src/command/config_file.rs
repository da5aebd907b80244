//! The configuration file, when CONFIG REWRITE writes it: TOML whose comments and order stay.
//!
//! Only settings that were changed at run time are touched: a line that sets one gets the new
//! value, the others are put behind the last setting. A failure leaves the old file as it was.

use super::settings::{Kind, SETTINGS, Settings};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Write the settings that changed into the file.
pub fn rewrite(path: &Path, settings: &Settings) -> io::Result<()> {
    let old = fs::read_to_string(path)?;
    let new = edited(&old, settings);
    if new == old {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let draft = path.with_file_name(name);
    let written = write_and_replace(path, &draft, &new);
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

fn write_and_replace(path: &Path, draft: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(draft)?;
    // The file may hold a password: nobody may read the new one who could not read the old.
    file.set_permissions(fs::metadata(path)?.permissions())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// The text of the file with the changed settings in it.
fn edited(old: &str, settings: &Settings) -> String {
    let mut missing: Vec<usize> = (0..SETTINGS.len()).filter(|&index| settings.was_changed(index)).collect();
    let mut lines: Vec<String> = Vec::new();
    let mut end_of_settings = None;
    let mut rest = old.lines();
    while let Some(line) = rest.next() {
        if end_of_settings.is_none() && line.trim_start().starts_with('[') {
            end_of_settings = Some(lines.len()); // What follows belongs to a table.
        }
        let set = key_of(line).filter(|_| end_of_settings.is_none());
        let Some(index) = set.and_then(Settings::find).filter(|&index| settings.was_changed(index)) else {
            lines.push(line.to_owned());
            continue;
        };
        missing.retain(|&each| each != index);
        let (before, value) = line.split_once('=').unwrap_or((line, ""));
        let mut value = value.to_owned();
        let mut after = after_value(&value);
        while after.is_none() {
            let Some(more) = rest.next() else { break }; // A list over several lines.
            value.push('\n');
            value.push_str(more);
            after = after_value(&value);
        }
        let comment = after.map_or("", |at| value[at..].trim());
        let gap = if comment.is_empty() { "" } else { "  " };
        lines.push(format!("{}= {}{gap}{comment}", before, written(settings, index)));
    }
    let appended: Vec<String> = missing
        .into_iter()
        .filter(|&index| settings.shown(index) != defaults().shown(index))
        .map(|index| format!("{} = {}", SETTINGS[index].name, written(settings, index)))
        .collect();
    let at = end_of_settings.unwrap_or(lines.len());
    lines.splice(at..at, appended);
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn defaults() -> Settings {
    Settings::default()
}

/// The key that a line sets.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-').then_some(key)
}

/// Where a value ends; `None` when it goes on in the next line.
fn after_value(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut depth = 0;
    let mut letters = text.char_indices().peekable();
    let mut commented = false;
    while let Some((at, letter)) = letters.next() {
        match (quote, letter) {
            _ if commented => commented = letter != '\n',
            (Some('"'), '\\') => {
                letters.next();
            }
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') => depth -= 1,
            (None, '#') if depth == 0 => return Some(at),
            (None, '#') => commented = true,
            _ => {}
        }
    }
    (depth == 0 && quote.is_none()).then_some(text.len())
}

/// A setting's value as TOML writes it.
fn written(settings: &Settings, index: usize) -> String {
    let value = settings.shown(index);
    match SETTINGS[index].kind {
        Kind::Boolean => (value == "yes").to_string(),
        Kind::Integer(..) | Kind::Memory(..) => value.to_owned(),
        _ => quoted(value),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(pairs: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in pairs {
            let index = Settings::find(name).unwrap();
            settings.put(index, value).unwrap();
            settings.note_change(index);
        }
        settings
    }

    #[test]
    fn only_what_changed_is_touched_and_comments_stay() {
        let old = "# My node\nport = 7001 # the port\nmaxmemory = \"100mb\"   # small\nbind = [\n  \"a\", # one\n]\n\ntimeout=0\n[other]\nhz = 1\n";
        let settings = changed(&[
            ("maxmemory", "200mb"),
            ("timeout", "5"),
            ("hz", "20"),
            ("requirepass", "a\"b\\"),
            ("appendonly", "no"),
        ]);
        assert_eq!(
            edited(old, &settings),
            "# My node\nport = 7001 # the port\nmaxmemory = 209715200  # small\nbind = [\n  \"a\", # one\n]\n\ntimeout= 5\n\
             requirepass = \"a\\\"b\\\\\"\nhz = 20\n[other]\nhz = 1\n"
        );
        assert_eq!(edited(old, &Settings::default()), old);
    }

    #[test]
    fn values_over_several_lines_are_replaced_whole() {
        let settings = changed(&[("notify-keyspace-events", "KEA"), ("loglevel", "debug")]);
        assert_eq!(
            edited("loglevel = [\n \"x\" # ]\n] # why\nnotify-keyspace-events = \"a # b\" # c\n", &settings),
            "loglevel = \"debug\"  # why\nnotify-keyspace-events = \"AKE\"  # c\n"
        );
    }

    #[test]
    fn the_file_keeps_its_access_mode() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("fastcache-config-{}.toml", std::process::id()));
        fs::write(&path, "hz = 10\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        rewrite(&path, &changed(&[("hz", "50")])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "hz = 50\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        assert!(rewrite(&path, &changed(&[("hz", "50")])).is_err());
    }
}
