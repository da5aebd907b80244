//! Snapshot files: what a node held at one point in time, checked from the first byte to the last.
//!
//! `snapshot-00000012.fcsnap`: a frame with the head (JSON: version, node, time, statistics, ...), frames with records of
//! what belongs to no entry (libraries of functions), frames with pieces of the entries' bytes (an entry may lie across frames), a frame with the foot (JSON: how many there are), and eight
//! bytes that tell the foot's length, so that it is found from the end. A file gets its name only when all of it is on
//! disk: it is written as `….tmp`, forced to disk, renamed, and the directory forced to disk. So whatever has the name
//! is whole, or was damaged later.

use super::disk::{Disk, Output};
use super::frame::{Damage, Frame, HEAD, Head, Kind, MOST_PACKED, Packer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The number of this form of files.
pub const FORMAT: u32 = 1;
/// Bytes of entries in a frame, about.
const PIECE: usize = 1 << 20;
const TRAILER: &[u8; 4] = b"FCS\xF7";
/// What unfinished files end in.
pub const UNFINISHED: &str = ".tmp";

/// What a snapshot is of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// See [`FORMAT`].
    pub format: u32,
    /// The version of FastCache that wrote it.
    pub version: String,
    /// The node.
    pub node: String,
    /// The cluster it belongs to; empty for none.
    pub cluster: String,
    /// The point in time, ms of wall time.
    pub timestamp: u64,
    /// The number of this snapshot.
    pub number: u64,
    /// The history of writes it stands in, and how many of them it holds; zero without a log.
    pub run: u64,
    /// See `run`.
    pub seq: u64,
    /// Counters and gauges of the node, by the names of its metrics.
    pub statistics: BTreeMap<String, u64>,
}

/// How much a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    /// Entries.
    pub entries: u64,
    /// Frames, that with the head included.
    pub frames: u64,
    /// Bytes of entries, unpacked.
    pub bytes: u64,
    /// How long it took, ms.
    pub took: u64,
}

/// The name of a snapshot.
pub fn name(number: u64) -> String {
    format!("snapshot-{number:08}.fcsnap")
}

/// The number in a snapshot's name.
fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("snapshot-")?.strip_suffix(".fcsnap")?.parse().ok()
}

/// The snapshots in a directory, the newest first.
pub fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some(number) = path.file_name().and_then(|name| number_of(name.to_str()?)) {
            found.push((number, path));
        }
    }
    found.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    Ok(found)
}

/// Writes a snapshot.
pub struct Writer<'d> {
    disk: &'d dyn Disk,
    directory: PathBuf,
    path: PathBuf,
    file: Box<dyn Output>,
    packer: Packer,
    tag: u16,
    sum: Sum,
    waiting: Vec<u8>,
    packed: Vec<u8>,
    /// Bytes written.
    pub written: u64,
}

impl<'d> Writer<'d> {
    /// Begin a file under its unfinished name.
    pub fn create(disk: &'d dyn Disk, directory: &Path, about: &About) -> io::Result<Writer<'d>> {
        let path = directory.join(name(about.number));
        let file = disk.create(&unfinished(&path))?;
        let tag = (about.timestamp ^ about.number << 9) as u16;
        let mut writer = Writer {
            disk,
            directory: directory.to_owned(),
            path,
            file,
            packer: Packer::default(),
            tag,
            sum: Sum::default(),
            waiting: Vec::new(),
            packed: Vec::new(),
            written: 0,
        };
        writer.frame(Kind::SnapshotHead, &serde_json::to_vec(about)?)?;
        Ok(writer)
    }

    /// Add records of what belongs to no entry; they come first.
    pub fn add_records(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes.chunks(MOST_PACKED).try_for_each(|piece| self.frame(Kind::Records, piece))
    }

    /// Add bytes of entries.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.bytes += bytes.len() as u64;
        if self.waiting.is_empty() && bytes.len() >= PIECE / 2 {
            return bytes.chunks(MOST_PACKED).try_for_each(|piece| self.frame(Kind::Entries, piece));
        }
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= PIECE {
            self.settle()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.chunks(MOST_PACKED).try_for_each(|piece| self.frame(Kind::Entries, piece))
    }

    fn frame(&mut self, kind: Kind, content: &[u8]) -> io::Result<()> {
        self.packed.clear();
        self.packer.pack(kind, self.tag, self.sum.frames, content, &mut self.packed);
        self.sum.frames += 1;
        self.written += self.packed.len() as u64;
        self.file.write(&self.packed)
    }

    /// Complete the file, have it on disk, and give it its name.
    pub fn finish(mut self, entries: u64, took: u64) -> io::Result<(PathBuf, Sum)> {
        self.settle()?;
        self.sum.entries = entries;
        self.sum.took = took;
        let sum = self.sum.clone();
        self.frame(Kind::SnapshotFoot, &serde_json::to_vec(&sum)?)?;
        let foot = self.packed.len() as u32;
        let mut trailer = foot.to_le_bytes().to_vec();
        trailer.extend_from_slice(TRAILER);
        self.written += 8;
        self.file.write(&trailer)?;
        self.file.sync()?;
        let Writer { disk, directory, path, file, .. } = self;
        drop(file);
        disk.rename(&unfinished(&path), &path)?;
        disk.sync_directory(&directory)?;
        Ok((path, sum))
    }

    /// Give up: what was written goes.
    pub fn abandon(self) {
        let Writer { disk, path, file, .. } = self;
        drop(file);
        let _ = disk.remove(&unfinished(&path));
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// What is wrong with a snapshot.
#[derive(Debug)]
pub struct Wrong(pub String);

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Wrong(format!("it cannot be read: {error}"))
    }
}

/// Reads a snapshot, piece by piece.
pub struct Reader {
    file: BufReader<File>,
    packer: Packer,
    tag: u16,
    sum: Sum,
    foot: Option<Sum>,
    stored: Vec<u8>,
    /// What it is of.
    pub about: About,
    /// Records of what belongs to no entry; all are there with the first piece of entries, or the end.
    pub records: Vec<u8>,
}

impl Reader {
    /// Open a snapshot and read its head.
    pub fn open(path: &Path) -> Result<Reader, Wrong> {
        let mut reader = Reader {
            file: BufReader::with_capacity(1 << 18, File::open(path)?),
            packer: Packer::default(),
            tag: 0,
            sum: Sum::default(),
            foot: None,
            stored: Vec::new(),
            about: About::default(),
            records: Vec::new(),
        };
        let head = reader.frame()?;
        reader.tag = head.tag;
        if head.kind != Kind::SnapshotHead || head.number != 0 {
            return Err(Wrong("it does not begin as a snapshot does".into()));
        }
        reader.sum.frames = 1;
        reader.about =
            serde_json::from_slice(&head.content).map_err(|error| Wrong(format!("its head is none: {error}")))?;
        if reader.about.format != FORMAT {
            return Err(Wrong(format!("it has format {}, and this version reads {FORMAT}", reader.about.format)));
        }
        Ok(reader)
    }

    /// The next piece of the entries' bytes; `None` behind the last, when all is as it was written.
    pub fn piece(&mut self) -> Result<Option<Vec<u8>>, Wrong> {
        if self.foot.is_some() {
            return Ok(None);
        }
        let frame = loop {
            let frame = self.frame()?;
            if frame.tag != self.tag || frame.number != self.sum.frames {
                return Err(Wrong(format!("in place of piece {} stands another", self.sum.frames)));
            }
            if frame.kind != Kind::Records || self.sum.bytes > 0 {
                break frame;
            }
            self.sum.frames += 1;
            self.records.extend_from_slice(&frame.content);
        };
        match frame.kind {
            Kind::Entries => {
                self.sum.frames += 1;
                self.sum.bytes += frame.content.len() as u64;
                Ok(Some(frame.content))
            }
            Kind::SnapshotFoot => {
                let foot: Sum = serde_json::from_slice(&frame.content)
                    .map_err(|error| Wrong(format!("its foot is none: {error}")))?;
                if (foot.frames, foot.bytes) != (self.sum.frames, self.sum.bytes) {
                    return Err(Wrong("pieces are missing".into()));
                }
                let mut rest = Vec::new();
                self.file.by_ref().take(64).read_to_end(&mut rest)?;
                if rest.len() != 8 || rest[4..] != TRAILER[..] {
                    return Err(Wrong("it does not end as a snapshot does".into()));
                }
                self.foot = Some(foot);
                Ok(None)
            }
            _ => Err(Wrong("it holds what no snapshot holds".into())),
        }
    }

    /// How much it holds; known at the end.
    pub fn sum(&self) -> Option<&Sum> {
        self.foot.as_ref()
    }

    fn frame(&mut self) -> Result<Frame, Wrong> {
        let at = self.sum.frames;
        let mut head_bytes = [0; HEAD];
        let short = |_| Wrong(format!("it ends within piece {at}"));
        self.file.read_exact(&mut head_bytes).map_err(short)?;
        let head = Head::read(&head_bytes).map_err(|_| Wrong(format!("piece {at} is damaged")))?;
        self.stored.clear();
        // What a damaged head announces is read only as far as the file goes.
        self.file.by_ref().take(head.stored as u64).read_to_end(&mut self.stored)?;
        if self.stored.len() < head.stored {
            return Err(Wrong(format!("it ends within piece {at}")));
        }
        self.packer.unpack(head, &head_bytes, &self.stored).map_err(|_: Damage| Wrong(format!("piece {at} is damaged")))
    }
}

/// How much a snapshot says it holds, read from its end alone.
pub fn sum_of(path: &Path) -> Result<Sum, Wrong> {
    let mut file = File::open(path)?;
    let ends = || Wrong("it does not end as a snapshot does".into());
    file.seek(SeekFrom::End(-8)).map_err(|_| ends())?;
    let mut trailer = [0; 8];
    file.read_exact(&mut trailer)?;
    let foot = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
    if trailer[4..] != TRAILER[..] || foot > 1 << 16 {
        return Err(ends());
    }
    file.seek(SeekFrom::End(-8 - i64::from(foot))).map_err(|_| ends())?;
    let mut bytes = vec![0; foot as usize];
    file.read_exact(&mut bytes)?;
    let (frame, _) = Packer::default().read(&bytes).map_err(|_| Wrong("its foot is damaged".into()))?;
    serde_json::from_slice(&frame.content).map_err(|_| ends())
}
