//! A proxy without Python, for profiling the core: `... --example proxy -- 6382 127.0.0.1:7001 127.0.0.1:7002`.
//! Slots are dealt out to the nodes in equal runs.

use fastcache_core::route::{Address, Map};
use fastcache_core::server::Proxy;
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((port, nodes)) = words.split_first() else {
        return eprintln!("usage: proxy PORT HOST:PORT|/PATH.sock ...");
    };
    let proxy = match Proxy::new(&[("port".into(), port.clone())]) {
        Ok(proxy) => proxy,
        Err(wrong) => return eprintln!("{wrong}"),
    };
    if let Err(error) = proxy.start(None) {
        return eprintln!("{error}");
    }
    let addresses: Vec<Address> = nodes
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let (host, port) = text.rsplit_once(':').unwrap_or(("", "0"));
            let unix = text.starts_with('/').then(|| text.clone());
            Address { id: format!("n{index}"), host: host.into(), port: port.parse().unwrap_or(0), unix, down: false }
        })
        .collect();
    let count = addresses.len().max(1) as u32;
    proxy.set_map(Map::new(1, addresses, |slot| (u32::from(slot) * count / 16_384) as u16));
    while !proxy.wait(Duration::from_secs(60)) {}
}
