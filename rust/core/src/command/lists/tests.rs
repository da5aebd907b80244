//! Lists without sockets: replies, and who is served when several wait. The answers are a real server's.

use crate::command::client::Token;
use crate::command::testing::Node;

fn ask(node: &mut Node, client: Token, line: &str) -> String {
    node.ask_as(client, &line.split_whitespace().collect::<Vec<_>>())
}

/// A client that waits for this.
fn waiting(node: &mut Node, line: &str) -> Token {
    let client = node.connect();
    assert_eq!(ask(node, client, line), "", "{line} waits");
    client
}

#[test]
fn elements_are_added_answered_and_taken_at_both_ends() {
    Node::new().expect(&[
        ("RPUSH l b c d", ":3"),
        ("LPUSH l a z", ":5"),
        ("LRANGE l 0 -1", "*5 $1 z $1 a $1 b $1 c $1 d"),
        ("LRANGE l -100 100", "*5 $1 z $1 a $1 b $1 c $1 d"),
        ("LRANGE l 0 -100", "*0"),
        ("LINDEX l -1", "$1 d"),
        ("LINDEX l 5", "$-1"),
        ("LPOP l", "$1 z"),
        ("RPOP l 2", "*2 $1 d $1 c"),
        ("LPOP l 0", "*0"),
        ("LPOP nothing 1", "*-1"),
        ("LPOP l -1", "-ERR value is out of range, must be positive"),
        ("LPOP l 1 2", "-ERR wrong number of arguments for 'lpop' command"),
        ("LPUSHX nothing a", ":0"),
        ("LSET l 1 x", "+OK"),
        ("LSET l 9 x", "-ERR index out of range"),
        ("LSET nothing 0 x", "-ERR no such key"),
        ("LINSERT l BEFORE x y", ":3"),
        ("LINSERT l AFTER nothing y", ":-1"),
        ("LRANGE l 0 -1", "*3 $1 a $1 y $1 x"),
        ("LTRIM l 1 1", "+OK"),
        ("LRANGE l 0 -1", "*1 $1 y"),
        ("LTRIM l 5 9", "+OK"),
        ("EXISTS l", ":0"),
    ]);
}

#[test]
fn equal_elements_are_found_and_removed_from_either_side() {
    Node::new().expect(&[
        ("RPUSH l a b c 1 2 3 c c", ":8"),
        ("LPOS l c", ":2"),
        ("LPOS l c RANK -1", ":7"),
        ("LPOS l c COUNT 0 RANK -2", "*2 :6 :2"),
        ("LPOS l c COUNT 2 MAXLEN 7", "*2 :2 :6"),
        ("LPOS l c RANK 4", "$-1"),
        ("LPOS nothing c COUNT 1", "*0"),
        ("LPOS l c COUNT -1", "-ERR COUNT can't be negative"),
        ("LREM l -2 c", ":2"),
        ("LREM l 0 nothing", ":0"),
        ("LRANGE l 0 -1", "*6 $1 a $1 b $1 c $1 1 $1 2 $1 3"),
    ]);
}

#[test]
fn elements_move_between_lists_and_around_one() {
    Node::new().expect(&[
        ("RPUSH a 1 2 3", ":3"),
        ("LMOVE a b LEFT RIGHT", "$1 1"),
        ("RPOPLPUSH a b", "$1 3"),
        ("LRANGE b 0 -1", "*2 $1 3 $1 1"),
        ("RPOPLPUSH b b", "$1 1"),
        ("LRANGE b 0 -1", "*2 $1 1 $1 3"),
        ("RPOPLPUSH a b", "$1 2"),
        ("EXISTS a", ":0"),
        ("LMOVE a b LEFT LEFT", "$-1"),
        ("SET text x", "+OK"),
        ("LMOVE b text LEFT LEFT", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("LMOVE b a LEFT UP", "-ERR syntax error"),
        ("LMPOP 2 nothing b RIGHT COUNT 2", "*2 $1 b *2 $1 3 $1 1"),
        ("LMPOP 0 b LEFT", "-ERR numkeys should be greater than 0"),
        ("LMPOP 1 nothing LEFT", "*-1"),
    ]);
}

#[test]
fn who_waited_first_is_served_first_once_the_command_is_done() {
    let mut node = Node::new();
    let first = waiting(&mut node, "BLPOP other l 0");
    let second = waiting(&mut node, "BRPOP l 0");
    let third = waiting(&mut node, "BLMPOP 0 1 l LEFT COUNT 10");
    node.expect(&[("RPUSH l a b c d", ":4"), ("EXISTS l", ":0")]);
    assert_eq!(node.heard(first), "*2 $1 l $1 a");
    assert_eq!(node.heard(second), "*2 $1 l $1 d");
    assert_eq!(node.heard(third), "*2 $1 l *2 $1 b $1 c");
    assert_eq!(node.engine.blocked_clients, 0);
    assert!(node.engine.waiting.is_empty());
}

#[test]
fn a_transaction_wakes_nobody_before_its_end_and_waits_for_nothing() {
    let mut node = Node::new();
    let client = waiting(&mut node, "BLPOP one two 0");
    node.expect(&[
        ("MULTI", "+OK"),
        ("RPUSH two b", "+QUEUED"),
        ("RPUSH one a", "+QUEUED"),
        ("BLPOP nothing 0", "+QUEUED"),
        ("BLMOVE nothing two LEFT LEFT 0", "+QUEUED"),
        ("EXEC", "*4 :1 :1 *-1 $-1"),
    ]);
    assert_eq!(node.heard(client), "*2 $3 two $1 b", "the key that was ready first counts");
    node.expect(&[("LLEN one", ":1"), ("EXISTS two", ":0")]);
}

#[test]
fn a_value_of_another_kind_does_not_end_the_wait() {
    let mut node = Node::new();
    let client = waiting(&mut node, "BLPOP one two 0");
    node.expect(&[("SET one x", "+OK"), ("RPUSH two a", ":1")]);
    assert_eq!(node.heard(client), "*2 $3 two $1 a");
    node.expect(&[("BLPOP one two 0", "-WRONGTYPE Operation against a key holding the wrong kind of value")]);
    let mover = waiting(&mut node, "BLMOVE two one LEFT LEFT 0");
    node.expect(&[("RPUSH two b", ":1"), ("LLEN two", ":1")]);
    assert!(node.heard(mover).starts_with("-WRONGTYPE"), "but a destination that is no list does");
}

#[test]
fn an_element_passes_along_a_chain_of_those_who_wait() {
    let mut node = Node::new();
    let last = waiting(&mut node, "BLPOP c 0");
    let middle = waiting(&mut node, "BLMOVE b c LEFT RIGHT 0");
    let first = waiting(&mut node, "BRPOPLPUSH a b 0");
    node.expect(&[("RPUSH a x", ":1"), ("EXISTS a b c", ":0")]);
    assert_eq!(node.heard(first), "$1 x");
    assert_eq!(node.heard(middle), "$1 x");
    assert_eq!(node.heard(last), "*2 $1 c $1 x");
}

#[test]
fn a_wait_ends_at_its_time_and_a_time_must_be_one() {
    let mut node = Node::new();
    let client = waiting(&mut node, "BLPOP l 0.25");
    let mover = waiting(&mut node, "BLMOVE l other LEFT LEFT 1");
    node.pass(249);
    assert_eq!(node.heard(client), "");
    node.pass(1);
    assert_eq!((node.heard(client), node.heard(mover)), ("*-1".into(), String::new()));
    node.pass(750);
    assert_eq!(node.heard(mover), "*-1");
    node.expect(&[
        ("BLPOP l soon", "-ERR timeout is not a float or out of range"),
        ("BLPOP l -1", "-ERR timeout is negative"),
        ("BLMOVE l other LEFT LEFT nan", "-ERR timeout is not a float or out of range"),
        ("BLMPOP 1e30 1 l LEFT", "-ERR timeout is negative"),
        ("RPUSH l a", ":1"),
        ("LLEN l", ":1"),
    ]);
}

#[test]
fn a_long_list_is_trimmed_emptied_and_read_back() {
    let mut node = Node::new();
    for number in 0..3000 {
        node.ask(&["RPUSH", "l", &format!("element {number}")]);
    }
    node.expect(&[("LTRIM l 10 -11", "+OK"), ("LLEN l", ":2980")]);
    assert_eq!(node.ask(&["LINDEX", "l", "1490"]), "$12 element 1500");
    assert_eq!(node.ask(&["LRANGE", "l", "-1", "-1"]), "*1 $12 element 2989");
    node.expect(&[("LTRIM l 1 0", "+OK"), ("EXISTS l", ":0")]);
}
