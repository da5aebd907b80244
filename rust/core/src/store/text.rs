//! Strings: put, replaced, edited in place.

use super::arena::NIL;
use super::entry::{self, Entry, Header, Kind};
use super::keyspace::{Found, Full, INLINE_TEXT, Keep, Store};
use super::object::Object;

impl Store {
    /// Put a string under a key, whatever was there before.
    #[inline]
    pub fn put_text(&mut self, database: u8, key: &[u8], value: &[u8], keep: Keep) -> Result<(), Full> {
        self.counts.sets += 1;
        match self.find(database, key) {
            Some(mut found) => self.replace_text(&mut found, value, keep, 0),
            None => self.insert_text(database, key, value, keep).map(|_| ()),
        }
    }

    /// Put a string in place of what a found key holds.
    #[inline]
    pub fn replace_text(&mut self, found: &mut Found, value: &[u8], keep: Keep, marks: u8) -> Result<(), Full> {
        let seconds = self.seconds();
        let entry = self.entry(*found);
        let old_flags = entry.flags();
        let mut header = Header::of(entry);
        let (key, _) = entry.lengths();
        let key_from = entry::header_len(old_flags);
        let stored_key = entry::stored_len(key);
        header.updated = seconds;
        header.kind = Kind::String;
        header.marks = marks | (header.marks & !(entry::RAW | entry::OBJECT));
        let had_expiry = header.expiry.is_some();
        match keep {
            Keep::Expiry => {}
            Keep::Nothing => header.expiry = None,
            Keep::Until(time) => header.expiry = Some(time),
        }
        if old_flags & entry::OBJECT != 0 {
            self.drop_object(*found);
        }
        let was_linked = header.linked;
        if was_linked && !self.evictor.policy().covers(header.expiry.is_some()) {
            self.evictor.left(&mut self.arena, found.handle);
            header.linked = false;
        }
        let mut number = [0; 4];
        let value = if value.len() > INLINE_TEXT {
            header.marks |= entry::OBJECT;
            number = self.objects.put(Object::Text(value.to_vec())).to_le_bytes();
            &number
        } else {
            value
        };
        let flags = header.flags(key, value.len());
        let header_len = entry::header_len(flags);
        let len = header_len + stored_key + value.len();
        if flags & entry::LAYOUT == old_flags & entry::LAYOUT && self.arena.fits(found.handle, len) {
            // The common case: same layout, same size. Links and key stay where they are.
            let links = old_flags & entry::LINKED;
            let bytes = self.arena.at_mut(found.handle);
            let (newer, older) = if links != 0 { Entry(bytes).links() } else { (NIL, NIL) };
            header.write(bytes, key, value.len());
            if links != 0 {
                entry::set_newer(bytes, newer);
                entry::set_older(bytes, older);
            }
            bytes[header_len + stored_key..len].copy_from_slice(value);
        } else {
            let Some(new) = self.arena.alloc(len) else {
                if header.marks & entry::OBJECT != 0 {
                    self.objects.take(u32::from_le_bytes(number));
                }
                if was_linked && !header.linked {
                    self.unlink_flag(found);
                }
                if old_flags & entry::OBJECT != 0 {
                    // The old value is gone already: no room for the new one means no key.
                    self.forget(*found);
                }
                return Err(Full);
            };
            let old = found.handle;
            self.scratch.clear();
            self.scratch.extend_from_slice(&self.arena.at(old)[key_from..key_from + stored_key]);
            let links = header.linked.then(|| Entry(self.arena.at(old)).links());
            let bytes = self.arena.at_mut(new);
            let at = header.write(bytes, key, value.len());
            bytes[at..at + stored_key].copy_from_slice(&self.scratch);
            bytes[at + stored_key..at + stored_key + value.len()].copy_from_slice(value);
            if let Some((newer, older)) = links {
                entry::set_newer(bytes, newer);
                entry::set_older(bytes, older);
                self.evictor.moved(&mut self.arena, old, new);
            }
            self.arena.free(old);
            found.handle = new;
            self.databases[found.database as usize].table_mut(found.slot).replace(found.place, new);
        }
        self.count_expiry(*found, had_expiry, header.expiry.is_some());
        self.touch(found);
        Ok(())
    }

    /// Change a string in place; it is told as `raw` from then on.
    pub fn edit_text(&mut self, found: &mut Found, edit: impl FnOnce(&mut Vec<u8>)) -> Result<(), Full> {
        if let Some(number) = self.entry(*found).object()
            && let Some(Object::Text(text)) = self.objects.get_mut(number)
        {
            edit(text);
            self.stamp(found);
            self.touch(found);
            return Ok(());
        }
        let mut text = Vec::with_capacity(self.text(*found).len() + 64);
        text.extend_from_slice(self.text(*found));
        edit(&mut text);
        self.replace_text(found, &text, Keep::Expiry, entry::RAW)
    }

    /// Put a string that a command made, whatever was under the key before; it is told as `raw`.
    pub fn put_made_text(&mut self, database: u8, key: &[u8], text: Vec<u8>) -> Result<(), Full> {
        self.counts.sets += 1;
        if let Some(mut found) = self.find(database, key) {
            if text.len() <= INLINE_TEXT {
                return self.replace_text(&mut found, &text, Keep::Nothing, entry::RAW);
            }
            self.remove(found);
        }
        if text.len() <= INLINE_TEXT {
            return self.insert(database, key, Kind::String, &text, entry::RAW, None, None).map(|_| ());
        }
        let number = self.objects.put(Object::Text(text));
        self.insert(database, key, Kind::String, &number.to_le_bytes(), entry::OBJECT, None, None)
            .map(|_| ())
            .inspect_err(|_| drop(self.objects.take(number)))
    }

    /// Put a string under a key that is not there.
    pub fn insert_text(&mut self, database: u8, key: &[u8], value: &[u8], keep: Keep) -> Result<Found, Full> {
        let expiry = if let Keep::Until(time) = keep { Some(time) } else { None };
        if value.len() > INLINE_TEXT {
            let number = self.objects.put(Object::Text(value.to_vec()));
            self.insert(database, key, Kind::String, &number.to_le_bytes(), entry::OBJECT, expiry, None)
                .inspect_err(|_| drop(self.objects.take(number)))
        } else {
            self.insert(database, key, Kind::String, value, 0, expiry, None)
        }
    }
}
