//! A node without Python, for profiling the core: `cargo run --release --example node -- port 7001 maxmemory 1gb`.

use fastcache_core::server::Node;
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let pairs: Vec<(String, String)> =
        words.chunks(2).filter(|pair| pair.len() == 2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    let node = match Node::new(&pairs) {
        Ok(node) => node,
        Err(wrong) => return eprintln!("{wrong}"),
    };
    if let Err(error) = node.start() {
        return eprintln!("{error}");
    }
    while !node.wait(Duration::from_secs(60)) {}
}
