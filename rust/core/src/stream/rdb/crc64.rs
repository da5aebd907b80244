//! The checksum of RDB files and DUMP payloads: CRC-64 with the polynomial of Jones, bits reflected.

/// Eight tables, so that eight bytes are taken at a step.
static TABLES: [[u64; 256]; 8] = {
    let mut tables = [[0u64; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut sum = index as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 != 0 { sum >> 1 ^ 0x95ac_9329_ac4b_c9b5 } else { sum >> 1 };
            bit += 1;
        }
        tables[0][index] = sum;
        index += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let before = tables[table - 1][index];
            tables[table][index] = tables[0][(before & 0xFF) as usize] ^ before >> 8;
            index += 1;
        }
        table += 1;
    }
    tables
};

/// Go on with a checksum; the first one is zero.
pub fn update(mut sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mixed = sum ^ u64::from_le_bytes(*word);
        sum = (0..8).fold(0, |all, at| all ^ TABLES[7 - at][(mixed >> (8 * at) & 0xFF) as usize]);
    }
    for &byte in rest {
        sum = TABLES[0][((sum ^ u64::from(byte)) & 0xFF) as usize] ^ sum >> 8;
    }
    sum
}

#[test]
fn sums_are_those_of_redis() {
    assert_eq!(update(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    let text: Vec<u8> = (0..=255).collect();
    let (one, two) = text.split_at(101);
    assert_eq!(update(update(0, one), two), update(0, &text));
}
