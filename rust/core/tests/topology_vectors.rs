//! The golden vectors of tests/vectors, which Python checks as well: all parties compute the same.

use std::fs;

use fastcache_core::slot::slot_of;
use fastcache_core::topology::document::digest_of;
use fastcache_core::topology::plan::plan;
use fastcache_core::topology::ring::position_of;
use fastcache_core::topology::{Document, Settings};
use serde_json::Value;

fn vectors(name: &str) -> Value {
    let path = format!("{}/../../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn slots_and_positions_are_those_of_the_vectors() {
    let ring = vectors("ring");
    for case in ring["slots"].as_array().unwrap() {
        assert_eq!(u64::from(slot_of(case["key"].as_str().unwrap().as_bytes())), case["slot"].as_u64().unwrap());
    }
    for case in ring["positions"].as_array().unwrap() {
        let label = case["label"].as_str().unwrap();
        assert_eq!(u64::from(position_of(label.as_bytes())), case["position"].as_u64().unwrap(), "{label}");
    }
}

#[test]
fn placements_are_those_of_the_vectors() {
    for case in vectors("ring")["placements"].as_array().unwrap() {
        let virtual_nodes = case["virtual_nodes"].as_u64().unwrap() as u32;
        let members = serde_json::to_vec(&case["members"]).unwrap();
        let answer = plan(&members, None, &Settings { virtual_nodes, ..Settings::default() }).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(digest_of(&serde_json::to_vec(&answer["slots"]).unwrap()), case["slots_sha256"].as_str().unwrap());
    }
}

#[test]
fn canonical_bytes_and_digests_are_those_of_the_vectors() {
    for case in vectors("topology").as_array().unwrap() {
        let document = Document::parse(&serde_json::to_vec(&case["document"]).unwrap()).unwrap();
        assert_eq!(String::from_utf8(document.canonical()).unwrap(), case["canonical"].as_str().unwrap());
        assert_eq!(document.digest(), case["sha256"].as_str().unwrap());
    }
}
