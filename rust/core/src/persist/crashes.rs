//! A crash after any change to the disk, with any of what was not forced to disk lost: the next start has everything that
//! was acknowledged, and nothing that never was.
//!
//! A node runs once over a disk that notes each change. From the notes every state is made that a crash may leave behind:
//! files as long as they were forced to disk, or longer, or with zeros behind; names as they were at the last sync of
//! the directory, with all, none or some of the later changes. `FASTCACHE_CRASH_STATES=10000` makes more of them.

use super::disk::{Disk, HostDisk, Output};
use super::tests::{LOGGED, Place, save, settle, start, start_on};
use crate::store::random::Random;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
enum Change {
    Create(PathBuf),
    Write(PathBuf, Vec<u8>),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Cut(PathBuf, u64),
    SyncDirectory,
}

type Notes = Arc<Mutex<Vec<Change>>>;

/// The host's disk; what is done to it is noted.
struct NotingDisk(Notes);

struct NotingFile(Box<dyn Output>, PathBuf, Notes);

impl NotingDisk {
    fn note(&self, done: io::Result<()>, change: Change) -> io::Result<()> {
        self.0.lock().unwrap().push(change);
        done
    }
}

impl Disk for NotingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        let file = HostDisk.create(path)?;
        self.note(Ok(()), Change::Create(path.into()))?;
        Ok(Box::new(NotingFile(file, path.into(), Arc::clone(&self.0))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note(HostDisk.rename(from, to), Change::Rename(from.into(), to.into()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.note(HostDisk.remove(path), Change::Remove(path.into()))
    }

    fn cut(&self, path: &Path, len: u64) -> io::Result<()> {
        self.note(HostDisk.cut(path, len), Change::Cut(path.into(), len))
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.note(HostDisk.sync_directory(path), Change::SyncDirectory)
    }
}

impl Output for NotingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.2.lock().unwrap().push(Change::Write(self.1.clone(), bytes.to_vec()));
        self.0.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()?;
        self.2.lock().unwrap().push(Change::Sync(self.1.clone()));
        Ok(())
    }
}

#[derive(Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: usize,
}

/// What a disk holds, and what of it is certain.
#[derive(Default)]
struct Model {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    /// The names of the last sync of the directory, and what was done to names since.
    certain: BTreeMap<PathBuf, usize>,
    later: Vec<Naming>,
}

/// A name went, a name came, or both at once.
struct Naming {
    gone: Option<PathBuf>,
    come: Option<(PathBuf, usize)>,
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        if let Some(path) = &self.gone {
            names.remove(path);
        }
        if let Some((path, number)) = &self.come {
            names.insert(path.clone(), *number);
        }
    }
}

impl Model {
    fn file(&mut self, path: &Path) -> &mut File {
        let number = self.names[path];
        &mut self.files[number]
    }

    fn rename(&mut self, gone: Option<PathBuf>, come: Option<(PathBuf, usize)>) {
        let naming = Naming { gone, come };
        naming.apply(&mut self.names);
        self.later.push(naming);
    }

    fn make(&mut self, change: &Change) {
        match change {
            Change::Create(path) => {
                self.files.push(File::default());
                self.rename(None, Some((path.clone(), self.files.len() - 1)));
            }
            Change::Write(path, bytes) => self.file(path).bytes.extend_from_slice(bytes),
            Change::Sync(path) => {
                let file = self.file(path);
                file.synced = file.bytes.len();
            }
            Change::Rename(from, to) => {
                let number = self.names[from];
                self.rename(Some(from.clone()), Some((to.clone(), number)));
            }
            // What was not there is not removed.
            Change::Remove(path) if self.names.contains_key(path) => self.rename(Some(path.clone()), None),
            Change::Remove(_) => {}
            Change::Cut(path, len) => {
                let file = self.file(path);
                file.bytes.truncate(*len as usize);
                file.synced = file.bytes.len();
            }
            Change::SyncDirectory => {
                self.certain = self.names.clone();
                self.later.clear();
            }
        }
    }

    /// What a crash leaves: a draw of what may be lost.
    fn crashed(&self, random: &mut Random) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut names = self.certain.clone();
        let kept = random.below(self.later.len() + 1);
        let way = random.below(4);
        for (number, naming) in self.later.iter().enumerate() {
            let happens = match way {
                0 => false,
                1 => true,
                2 => number < kept,
                _ => random.below(2) == 0,
            };
            if happens {
                naming.apply(&mut names);
            }
        }
        let way = random.below(4);
        let left = names.into_iter().map(|(path, number)| {
            let File { bytes, synced } = &self.files[number];
            let len = match way {
                0 => *synced,
                1 => bytes.len(),
                _ => synced + random.below(bytes.len() - synced + 1),
            };
            let mut bytes = bytes[..len].to_vec();
            if way == 3 {
                bytes[*synced..].fill(0); // Its length was written and its contents were not.
            }
            (path, bytes)
        });
        left.collect()
    }
}

#[test]
fn whatever_a_crash_leaves_of_the_disk_has_all_that_was_acknowledged() {
    let states: usize = std::env::var("FASTCACHE_CRASH_STATES").map_or(300, |text| text.parse().expect("a number"));
    let place = Place::new("crash");
    let notes = Notes::default();
    let mut node = start_on(&place, &LOGGED, Arc::new(NotingDisk(Arc::clone(&notes))));
    // How many changes there were when a number was acknowledged.
    let mut acknowledged = vec![(0, 0)];
    for number in 1..=60u64 {
        assert_eq!(node.line(&format!("SET n {number}")), "+OK");
        node.line(&format!("SET {{n}}{number} {number}"));
        if number % 9 == 0 {
            save(&mut node);
        }
        settle(&mut node);
        acknowledged.push((notes.lock().unwrap().len(), number));
    }
    drop(node);
    let notes = notes.lock().unwrap().clone();
    let renames = notes.iter().filter(|change| matches!(change, Change::Rename(..))).count();
    assert!(renames >= 6 && notes.len() > 150, "{renames} of {}", notes.len());
    let mut random = Random::new(states as u64);
    let (mut model, mut made) = (Model::default(), 0);
    let left = Place::new("crashed");
    for state in 0..states {
        // Every change has its crash, and the more states there are the more of them.
        let at = (state + 1) * notes.len() / states;
        notes[made..at].iter().for_each(|change| model.make(change));
        made = at;
        let files = model.crashed(&mut random);
        for (path, bytes) in &files {
            std::fs::write(left.0.join(path.file_name().unwrap()), bytes).unwrap();
        }
        let least = acknowledged.iter().rev().find(|(changes, _)| *changes <= at).map_or(0, |(_, number)| *number);
        let most = acknowledged.iter().find(|(changes, _)| *changes >= at).map_or(60, |(_, number)| *number);
        let mut node = start(&left, &LOGGED);
        let told = node.line("GET n");
        let held: u64 = told.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let what = format!("state {state} after {at} changes, files {:?}", files.keys());
        assert!((least..=most).contains(&held), "{held} is not within {least}..={most}: {what}");
        // A prefix of what was written, with no hole in it; and it goes on.
        let count = node.integer(&["DBSIZE"]) as u64;
        // `n`, and a key for each number; of the last one perhaps not yet.
        assert!(held == 0 || (held..=held + 1).contains(&count), "{count} keys with {held}: {what}");
        assert_eq!(node.line("SET after 1"), "+OK", "{what}");
        settle(&mut node);
        drop(node);
        for entry in std::fs::read_dir(&left.0).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}
