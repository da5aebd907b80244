//! An RDB file or stream, piece by piece: bytes go in as they come, keys with their values come out.
//!
//! Values stay the bytes that they are in the file; with version and checksum behind them they are the payload of a
//! RESTORE. Memory holds one value and what was fed since, whatever the file announces.

use super::{crc64, knows_version, skip_string, skip_value};
use crate::stream::codec::{Garbage, Reader};

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A key with its value.
    Entry(Entry),
    /// The source of a library of functions.
    Functions(Vec<u8>),
    /// The file is over, and its checksum right.
    End,
}

/// A key with its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The database.
    pub database: usize,
    /// The key.
    pub key: Vec<u8>,
    /// When it expires, in milliseconds of wall time.
    pub expiry: Option<u64>,
    /// For how many seconds it was not used.
    pub idle: Option<usize>,
    /// The logarithmic count of its uses.
    pub uses: Option<u8>,
    /// Type byte and value.
    pub value: Vec<u8>,
    /// The version of the file.
    pub version: u16,
}

const SLOT_INFO: u8 = 0xF4;
const FUNCTIONS: u8 = 0xF5;
const MODULE: u8 = 0xF7;
const IDLE: u8 = 0xF8;
const USES: u8 = 0xF9;
const NOTE: u8 = 0xFA;
const SIZES: u8 = 0xFB;
const EXPIRY_MS: u8 = 0xFC;
const EXPIRY_S: u8 = 0xFD;
const DATABASE: u8 = 0xFE;
const END: u8 = 0xFF;

/// A value that is not whole is gone through again with every piece that comes, up to this many bytes; a longer one
/// when there is half as much again.
const SMALL: usize = 64 * 1024;

const EARLY: Garbage = Garbage("it ends too early");

/// See the module's page.
#[derive(Default)]
pub struct File {
    buffer: Vec<u8>,
    at: usize,
    /// Reading on makes no sense before so many bytes are there.
    wanted: usize,
    sum: u64,
    version: Option<u16>,
    pending: Entry,
    ended: bool,
    taken: u64,
}

impl File {
    /// Take bytes that follow those before.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at > self.buffer.len() / 2 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Look again at what is there: no more is coming, or not soon.
    pub fn retry(&mut self) {
        self.wanted = 0;
    }

    /// How many bytes are read for good.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that were fed and are not read: what follows the end, once it was there.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// The next item; `None` when more must be fed for it, and behind the end.
    pub fn item(&mut self) -> Result<Option<Item>, Garbage> {
        while !self.ended && self.rest().len() >= self.wanted {
            let left = self.rest().len();
            let mut reader = Reader::new(&self.buffer[self.at..]);
            let step = step(&mut reader, self.version, &mut self.pending);
            let used = left - reader.rest().len();
            let item = match step {
                Err(EARLY) => {
                    self.wanted = left + (left / 2).saturating_sub(SMALL) + 1;
                    return Ok(None);
                }
                Err(garbage) => return Err(garbage),
                Ok(step) => step,
            };
            self.wanted = 0;
            let bytes = &self.buffer[self.at..self.at + used];
            match item {
                Step::Begun(version) => self.version = Some(version),
                Step::Over(sum) => {
                    // A sum of zero says that none was taken.
                    let own = crc64::update(self.sum, &bytes[..1]);
                    if sum.is_some_and(|sum| sum != 0 && sum != own) {
                        return Err(Garbage("the checksum of the file is wrong"));
                    }
                    self.ended = true;
                }
                Step::On | Step::Item(_) => {}
            }
            self.sum = crc64::update(self.sum, bytes);
            self.at += used;
            self.taken += used as u64;
            match item {
                Step::Item(item) => return Ok(Some(item)),
                Step::Over(_) => return Ok(Some(Item::End)),
                Step::On | Step::Begun(_) => {}
            }
        }
        Ok(None)
    }
}

enum Step {
    On,
    Begun(u16),
    Item(Item),
    Over(Option<u64>),
}

fn step(reader: &mut Reader<'_>, version: Option<u16>, pending: &mut Entry) -> Result<Step, Garbage> {
    let Some(version) = version else {
        let magic = reader.array::<5>()?;
        let digits = reader.array::<4>()?;
        let version = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
        // Valkey 9 calls its files by its own name.
        let known = (magic == *b"REDIS" || magic == *b"VALKE") && version.is_some_and(knows_version);
        let wrong = if magic == *b"REDIS" || magic == *b"VALKE" {
            "it is an RDB file of a version that is not known here"
        } else {
            "it is no RDB file"
        };
        return version.filter(|_| known).map(Step::Begun).ok_or(Garbage(wrong));
    };
    match reader.byte()? {
        END => {
            let sum = if version >= 5 { Some(u64::from_le_bytes(reader.array()?)) } else { None };
            return Ok(Step::Over(sum));
        }
        DATABASE => pending.database = reader.length()?,
        EXPIRY_MS => pending.expiry = Some(u64::from_le_bytes(reader.array()?)),
        EXPIRY_S => pending.expiry = Some(u64::from(u32::from_le_bytes(reader.array()?)) * 1000),
        IDLE => pending.idle = Some(reader.length()?),
        USES => pending.uses = Some(reader.byte()?),
        NOTE => {
            skip_string(reader)?;
            skip_string(reader)?;
        }
        SIZES => {
            reader.length()?;
            reader.length()?;
        }
        SLOT_INFO => {
            reader.length()?;
            reader.length()?;
            reader.length()?;
        }
        FUNCTIONS => return Ok(Step::Item(Item::Functions(reader.string()?.into_owned()))),
        MODULE => skip_module(reader)?,
        of => {
            let key = reader.string()?;
            let value = *reader;
            skip_value(of, reader)?;
            let len = value.rest().len() - reader.rest().len();
            let entry = Entry {
                key: key.into_owned(),
                value: [&[of], &value.rest()[..len]].concat(),
                database: pending.database,
                version,
                ..std::mem::take(pending)
            };
            pending.database = entry.database;
            return Ok(Step::Item(Item::Entry(entry)));
        }
    }
    Ok(Step::On)
}

/// Pass over what a module keeps beside keys.
fn skip_module(reader: &mut Reader<'_>) -> Result<(), Garbage> {
    reader.length()?; // The module's name, as a number.
    reader.length()?; // When: an opcode and a number.
    reader.length()?;
    loop {
        match reader.length()? {
            0 => return Ok(()),
            1 | 2 => drop(reader.length()?),
            3 => drop(reader.bytes(4)?),
            4 => drop(reader.bytes(8)?),
            5 => skip_string(reader)?,
            _ => return Err(Garbage("what a module keeps has a form that is not known")),
        }
    }
}

impl Entry {
    /// The words of the RESTORE that brings the entry in: `key expiry payload [REPLACE] ABSTTL ...`.
    pub fn restore(mut self, replace: bool) -> Vec<Vec<u8>> {
        super::seal_as(&mut self.value, self.version);
        let mut words = vec![b"RESTORE".to_vec(), self.key];
        words.push(self.expiry.unwrap_or(0).to_string().into_bytes());
        words.push(self.value);
        words.push(b"ABSTTL".to_vec());
        if replace {
            words.push(b"REPLACE".to_vec());
        }
        if let Some(uses) = self.uses {
            words.extend([b"FREQ".to_vec(), uses.to_string().into_bytes()]);
        } else if let Some(idle) = self.idle {
            words.extend([b"IDLETIME".to_vec(), idle.to_string().into_bytes()]);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut file = b"REDIS0010".to_vec();
        file.extend_from_slice(b"\xfa\x09redis-ver\x067.0.15\xfe\x02\xfb\x02\x01");
        file.extend_from_slice(b"\x00\x01a\xc0\x0a");
        file.extend_from_slice(
            b"\xfc\x00\x10\x20\x30\x40\x01\x00\x00\xf9\x07\x01\x01l\x02\x01x\xc3\x04\x05\x00a\x40\x00",
        );
        file.push(END);
        let sum = crc64::update(0, &file);
        file.extend_from_slice(&sum.to_le_bytes());
        file
    }

    fn read(pieces: &[&[u8]]) -> Result<Vec<Item>, Garbage> {
        let (mut file, mut items) = (File::default(), Vec::new());
        for piece in pieces {
            file.feed(piece);
            while let Some(item) = file.item()? {
                items.push(item);
            }
        }
        Ok(items)
    }

    #[test]
    fn keys_come_out_however_the_file_is_cut() {
        let sample = sample();
        let whole = read(&[&sample]).unwrap();
        assert_eq!(whole.len(), 3);
        let Item::Entry(first) = &whole[0] else { panic!("{whole:?}") };
        assert_eq!(
            (first.database, &first.key[..], first.expiry, &first.value[..]),
            (2, &b"a"[..], None, &b"\x00\xc0\x0a"[..])
        );
        let Item::Entry(second) = &whole[1] else { panic!("{whole:?}") };
        assert_eq!((second.database, second.uses, second.expiry), (2, Some(7), Some(0x0140_3020_1000)));
        assert_eq!(whole[2], Item::End);
        for at in 0..sample.len() {
            assert_eq!(read(&[&sample[..at], &sample[at..]]).as_ref(), Ok(&whole), "{at}");
        }
        let single: Vec<&[u8]> = sample.chunks(1).collect();
        assert_eq!(read(&single), Ok(whole));
    }

    #[test]
    fn a_changed_file_is_told_from_a_good_one() {
        let mut sample = sample();
        let last = sample.len() - 1;
        sample[last] ^= 1;
        assert_eq!(read(&[&sample]), Err(Garbage("the checksum of the file is wrong")));
        assert_eq!(read(&[b"REDIS9999abc"]), Err(Garbage("it is an RDB file of a version that is not known here")));
        assert_eq!(read(&[b"{\"snapshot\":1}"]), Err(Garbage("it is no RDB file")));
    }
}
