//! What is done to files, behind a seam: tests put a disk there that fills up, fails, or loses power.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Changes to a directory and its files.
pub trait Disk: Send + Sync {
    /// A new file, or an emptied one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>>;
    /// Give a file another name, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Remove a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Cut a file and force what is left to disk.
    fn cut(&self, path: &Path, len: u64) -> io::Result<()>;
    /// Force names to disk.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// A file being written.
pub trait Output: Send {
    /// Add bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Force what was written to disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// The disk of the host.
pub struct HostDisk;

impl Disk for HostDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(File::create(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn cut(&self, path: &Path, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl Output for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
