//! Bytes made smaller for the way to another node or to disk, and back: zstd at its fastest level.

/// Most bytes that are squeezed at once: so much may be allocated by a length that is announced.
pub const MOST: usize = 4 << 20;
/// Fewer bytes are not worth it.
const FEWEST: usize = 256;
const LEVEL: i32 = 1;

/// See the module's page. Its buffers are made when they are first needed.
#[derive(Default)]
pub struct Squeezer {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl Squeezer {
    /// Append `content`, squeezed; `false`, with nothing appended, when that would save little.
    pub fn squeeze(&mut self, content: &[u8], out: &mut Vec<u8>) -> bool {
        if !(FEWEST..=MOST).contains(&content.len()) {
            return false;
        }
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        let start = out.len();
        out.resize(start + content.len() - content.len() / 16, 0);
        // It fails when there is not room enough.
        let squeezed = self.compressor.as_mut().and_then(|it| it.compress_to_buffer(content, &mut out[start..]).ok());
        out.truncate(start + squeezed.unwrap_or(0));
        squeezed.is_some()
    }

    /// What was squeezed; it must be as long as is said.
    pub fn restore(&mut self, squeezed: &[u8], len: usize) -> Option<Vec<u8>> {
        if len > MOST {
            return None;
        }
        if self.decompressor.is_none() {
            self.decompressor = zstd::bulk::Decompressor::new().ok();
        }
        let content = self.decompressor.as_mut()?.decompress(squeezed, len).ok()?;
        (content.len() == len).then_some(content)
    }
}

#[test]
fn what_was_squeezed_comes_back_and_what_would_save_nothing_is_left() {
    let mut squeezer = Squeezer::default();
    let alike = b"long and alike ".repeat(100);
    let mut out = b"before".to_vec();
    assert!(squeezer.squeeze(&alike, &mut out) && out.len() < 200 && out.starts_with(b"before"));
    assert_eq!(squeezer.restore(&out[6..], alike.len()), Some(alike.clone()));
    for (bytes, len) in [(&out[6..], alike.len() - 1), (&out[6..], MOST + 1), (&out[7..], alike.len()), (&b""[..], 9)] {
        assert_eq!(squeezer.restore(bytes, len), None);
    }
    let mut noise = (0..2000u64).flat_map(|n| n.wrapping_mul(n).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    for content in [noise.by_ref().collect::<Vec<u8>>(), b"short".to_vec(), vec![0; MOST + 1]] {
        let mut out = b"before".to_vec();
        assert!(!squeezer.squeeze(&content, &mut out) && out == b"before");
    }
}
