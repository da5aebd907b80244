//! Processor time of placing 2,000 nodes and of looking up a key. Run: `cargo run --release --example placement_speed`

use std::hint::black_box;
use std::time::Instant;

use fastcache_core::slot::slot_of;
use fastcache_core::topology::document::{Cluster, Document, Node, State};
use fastcache_core::topology::{Settings, place};

fn nodes(count: usize) -> Vec<Node> {
    (0..count)
        .map(|number| Node {
            host: format!("host-{}", number / 4),
            id: format!("node-{number:04}"),
            port: 7001,
            rack: format!("rack-{}", number / 40 % 10),
            run: String::new(),
            state: State::Up,
            unix: String::new(),
            weight: 100,
        })
        .collect()
}

/// The best of many runs: others on the machine only ever add to it.
fn best(runs: usize, mut work: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    for replicas in 0..3 {
        let settings = Settings { replicas, ..Settings::default() };
        let document = Document::of_static_nodes(Cluster::default(), nodes(2000), &settings).expect("places");
        let members = document.members();
        let fresh = best(10, || drop(black_box(place(&members, None, &settings))));
        let mut fewer = members.clone();
        fewer[17].weight = 0;
        let again = best(10, || drop(black_box(place(&fewer, Some(document.placement()), &settings))));
        println!("2000 nodes, {replicas} replicas: fresh {:.1} ms, one drained {:.1} ms", fresh * 1e3, again * 1e3);
    }
    let document = Document::of_static_nodes(Cluster::default(), nodes(50), &Settings::default()).expect("places");
    let keys: Vec<String> = (0..1000).map(|number| format!("user:{{{number}}}:profile")).collect();
    let rounds = 1000;
    let total = best(10, || {
        for _ in 0..rounds {
            for key in &keys {
                black_box(document.main(slot_of(black_box(key.as_bytes()))));
            }
        }
    });
    println!("lookup of a key: {:.1} ns", total * 1e9 / (rounds * keys.len()) as f64);
    let bytes = document.canonical();
    println!("document of 50 nodes: {} bytes", bytes.len());
    println!("canonical bytes {:.2} ms", best(10, || drop(black_box(document.canonical()))) * 1e3);
    println!("digest {:.2} ms", best(10, || drop(black_box(document.digest()))) * 1e3);
    println!("parse {:.2} ms", best(10, || drop(black_box(Document::parse(&bytes)))) * 1e3);
}
