//! Streams through requests, where the conformance cases cannot look or a clock matters.

use crate::command::testing::Node;

#[test]
fn what_waits_is_served_from_the_stream_that_grew_and_from_the_entry_that_was_last() {
    let mut node = Node::new();
    let (one, other) = (node.connect(), node.connect());
    node.line("XADD s 1-1 f v");
    assert_eq!(node.ask_as(one, &["XREAD", "BLOCK", "0", "STREAMS", "t", "s", "$", "$"]), "");
    node.line("XGROUP CREATE s g $");
    assert_eq!(node.ask_as(other, &["XREADGROUP", "GROUP", "g", "c", "BLOCK", "5", "STREAMS", "s", ">"]), "");
    node.line("XADD s 1-2 f w");
    assert_eq!(node.heard(one), "*1 *2 $1 s *1 *2 $3 1-2 *2 $1 f $1 w");
    assert_eq!(node.heard(other), "*1 *2 $1 s *1 *2 $3 1-2 *2 $1 f $1 w");
    node.expect(&[
        ("XPENDING s g", "*4 :1 $3 1-2 $3 1-2 *1 *2 $1 c $1 1"),
        ("XINFO GROUPS s", "*1 *12 $4 name $1 g $9 consumers :1 $7 pending :1 $17 last-delivered-id $3 1-2 $12 entries-read :2 $3 lag :0"),
    ]);
    node.ask_as(other, &["XREADGROUP", "GROUP", "g", "c", "BLOCK", "5", "STREAMS", "s", ">"]);
    node.pass(10);
    assert_eq!(node.heard(other), "*-1");
    node.ask_as(other, &["XREADGROUP", "GROUP", "g", "c", "BLOCK", "0", "STREAMS", "s", ">"]);
    node.line("XGROUP DESTROY s g");
    assert_eq!(node.heard(other), "-NOGROUP the consumer group this client was blocked on no longer exists");
}

#[test]
fn what_is_idle_too_long_goes_to_another() {
    let mut node = Node::new();
    node.line("XADD s 1-1 f v");
    node.line("XADD s 1-2 f v");
    node.line("XGROUP CREATE s g 0");
    node.line("XREADGROUP GROUP g c STREAMS s >");
    node.pass(1000);
    node.line("XREADGROUP GROUP g c STREAMS s 1-1");
    node.expect(&[
        ("XPENDING s g IDLE 500 - + 10", "*1 *4 $3 1-1 $1 c :1000 :1"),
        ("XAUTOCLAIM s g d 500 - JUSTID", "*3 $3 0-0 *1 $3 1-1 *0"),
        ("XPENDING s g - + 10", "*2 *4 $3 1-1 $1 d :0 :1 *4 $3 1-2 $1 c :0 :2"),
        ("XDEL s 1-2", ":1"),
        ("XCLAIM s g d 0 1-2", "*0"),
        ("XPENDING s g - + 10", "*1 *4 $3 1-1 $1 d :0 :1"),
        ("XGROUP DELCONSUMER s g d", ":1"),
        ("XPENDING s g", "*4 :0 $-1 $-1 *-1"),
    ]);
}

#[test]
fn a_stream_is_copied_with_its_groups_and_counts_what_it_costs() {
    let mut node = Node::new();
    for _ in 0..300 {
        node.line("XADD s * field value");
    }
    node.line("XGROUP CREATE s g 0");
    node.line("XREADGROUP GROUP g c COUNT 5 STREAMS s >");
    node.expect(&[
        ("COPY s t", ":1"),
        ("XLEN t", ":300"),
        ("TYPE t", "+stream"),
        ("OBJECT ENCODING t", "$6 stream"),
        ("XACK t g 1700000000000-0 1700000000000-1", ":2"),
        ("XINFO CONSUMERS s g", "*1 *6 $4 name $1 c $7 pending :5 $4 idle :0"),
        ("XINFO CONSUMERS t g", "*1 *6 $4 name $1 c $7 pending :3 $4 idle :0"),
    ]);
    let cost = node.integer(&["MEMORY", "USAGE", "s"]);
    assert!((2_500..8_000).contains(&cost), "{cost} bytes");
    node.expect(&[("DEL s t", ":2"), ("XLEN s", ":0")]);
}
