//! Scripts on a node without sockets: what they answer, and what they cannot do.

use crate::command::testing::Node;

/// On a thread with as much stack as a node's.
fn deep(test: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(64 << 20).spawn(test).unwrap().join().unwrap();
}

fn eval(node: &mut Node, script: &str) -> String {
    node.ask(&["EVAL", script, "0"])
}

#[test]
fn a_script_reads_and_writes_and_answers() {
    let mut node = Node::new();
    assert_eq!(node.ask(&["EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", "1", "k", "v"]), "+OK");
    assert_eq!(eval(&mut node, "return {redis.call('GET','k'), 1.9, true, false, {ok='x'}}"), "*5 $1 v :1 :1 $-1 +x");
    let digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    assert_eq!(node.ask(&["EVALSHA", digest, "0"]), "-NOSCRIPT No matching script. Please use EVAL.");
    assert_eq!(node.ask(&["SCRIPT", "LOAD", "return 1"]), format!("$40 {digest}"));
    assert_eq!(node.ask(&["EVALSHA", &digest.to_uppercase(), "0"]), ":1");
    node.expect(&[("SCRIPT FLUSH", "+OK"), ("SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "*1 :0")]);
}

#[test]
fn an_error_names_the_script_and_the_line() {
    let mut node = Node::new();
    let reply = eval(&mut node, "\n\nreturn redis.call('NOSUCH')");
    assert!(reply.starts_with("-ERR Unknown Redis command called from script script: "), "{reply}");
    assert!(reply.ends_with(", on @user_script:3."), "{reply}");
    assert!(eval(&mut node, "return foo").contains("nonexistent global variable 'foo'"));
    assert!(eval(&mut node, "error({})").starts_with("-ERR unknown error script: "));
}

#[test]
fn an_error_is_counted_once() {
    let mut node = Node::new();
    node.line("SET k v");
    eval(&mut node, "return redis.call('LPUSH','k','v')");
    assert_eq!(node.engine.error_stats[&b"WRONGTYPE"[..].to_vec()], 1);
    assert_eq!(node.engine.stats.errors, 1);
}

#[test]
fn what_scripts_share_cannot_be_changed() {
    let mut node = Node::new();
    for attempt in [
        "foo = 1",
        "_G.foo = 1",
        "string.rep = nil",
        "redis.call = nil",
        "rawset(_G, 'foo', 1)",
        "rawset(string, 'foo', 1)",
        "setmetatable(_G, {})",
        "table.insert(string, 1)",
        "getmetatable('').__index = nil",
        "getmetatable('').__index.rep = nil",
        "getmetatable(_G).__index = nil",
        "local _, t = pairs(string); t.rep = nil; if ('x').rep == nil then return 1 end; error('Attempt to modify a readonly table')",
        "cjson.encode = nil",
        "KEYS = nil",
    ] {
        let reply = eval(&mut node, attempt);
        assert!(reply.contains("Attempt to modify a readonly table"), "{attempt}: {reply}");
    }
    assert_eq!(eval(&mut node, "return ('x'):rep(2) .. string.rep('y', 2)"), "$4 xxyy");
}

#[test]
fn nothing_of_the_system_is_within_reach() {
    let mut node = Node::new();
    for name in
        ["os", "io", "debug", "package", "require", "dofile", "loadfile", "print", "newproxy", "getfenv", "setfenv"]
    {
        let reply = eval(&mut node, &format!("return {name}"));
        assert!(reply.contains("nonexistent global variable"), "{name}: {reply}");
    }
    assert_eq!(eval(&mut node, "return string.dump"), "$-1");
    assert!(eval(&mut node, "return select(2, loadstring('\\27Lua'))").contains("unexpected symbol near"));
}

#[test]
fn what_reaches_for_too_much_ends_in_an_error() {
    deep(|| {
        let mut node = Node::with(&[("lua-memory-limit", "32mb")]);
        for bomb in [
            "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
            "local s = 'x' while true do s = s .. s end",
            "return ('x'):rep(1e9)",
            "return string.format('%99999d', 1)",
            "return unpack({}, 1, 1e8)",
            "return unpack({1, 2, 3}, -2, 2147483647)",
            "return unpack({}, -2147483648, 2147483647)",
            "local function f() return 1 + f() end return f()",
            "local function f() return coroutine.wrap(f)() end return f()",
            "local t = {} for i = 1, 1e5 do t = {t} end return cjson.encode(t)",
            "return cjson.decode(('['):rep(1e5))",
            "return cmsgpack.unpack(('\\145'):rep(1e5))",
            "return ('x'):rep(1e6):find(('x?'):rep(1e6))",
            "return loadstring(('('):rep(1e5))()",
        ] {
            let reply = eval(&mut node, bomb);
            assert!(reply.starts_with('-'), "{bomb}: {}", &reply[..reply.len().min(100)]);
            assert_eq!(eval(&mut node, "return redis.call('PING')"), "+PONG", "after {bomb}");
        }
        assert!(
            eval(&mut node, "local t = {} for i = 1, 1e5 do t = {t} end return t")
                .contains("-ERR reached lua stack limit")
        );
    });
}

#[test]
fn a_script_that_may_not_write_does_not() {
    let mut node = Node::new();
    let reply = node.ask(&["EVAL_RO", "return redis.call('SET','k','v')", "0"]);
    assert!(reply.starts_with("-ERR Write commands are not allowed from read-only scripts."), "{reply}");
    let reply = eval(&mut node, "#!lua flags=no-writes\nreturn redis.call('SET','k','v')");
    assert!(reply.starts_with("-ERR Write commands are not allowed from read-only scripts."), "{reply}");
    node.expect(&[("EXISTS k", ":0")]);
}

#[test]
fn memory_that_is_short_stops_the_first_write_only() {
    let mut node = Node::new();
    node.line("SET k v");
    node.line("CONFIG SET maxmemory 1");
    assert!(eval(&mut node, "return redis.call('SET','k','w')").starts_with("-OOM "));
    assert_eq!(eval(&mut node, "redis.call('DEL','k') return redis.call('SET','k','w')"), "+OK");
    assert!(eval(&mut node, "#!lua\nreturn 1").starts_with("-OOM command not allowed"));
    assert_eq!(eval(&mut node, "#!lua flags=allow-oom\nreturn redis.call('SET','k','x')"), "+OK");
    assert_eq!(eval(&mut node, "#!lua flags=no-writes\nreturn redis.call('GET','k')"), "$1 x");
}

#[test]
fn those_who_wait_are_served_after_a_script() {
    let mut node = Node::new();
    let waiting = node.connect();
    assert_eq!(node.ask_as(waiting, &["BLPOP", "l", "0"]), "");
    assert_eq!(eval(&mut node, "redis.call('RPUSH','l','a') return redis.call('LLEN','l')"), ":1");
    assert_eq!(node.heard(waiting), "*2 $1 l $1 a");
    node.expect(&[("WATCH k", "+OK")]);
    eval(&mut node, "return redis.call('SET','k','v')");
    node.expect(&[("MULTI", "+OK"), ("PING", "+QUEUED"), ("EXEC", "*-1")]);
}

#[test]
fn what_a_script_selects_is_its_own() {
    let mut node = Node::new();
    eval(&mut node, "redis.call('SELECT', 3) return redis.call('SET','k','v')");
    node.expect(&[("EXISTS k", ":0"), ("SELECT 3", "+OK"), ("EXISTS k", ":1")]);
}

#[test]
fn what_a_script_writes_is_recorded_as_one_group() {
    let mut node = Node::new();
    let mut cursor = node.engine.listen();
    eval(&mut node, "redis.call('SET','a',1) redis.call('INCR','b') redis.call('SPOP','none') return 1");
    node.ask(&["MULTI"]);
    node.ask(&["SET", "c", "1"]);
    eval(&mut node, "return redis.call('INCR','c')");
    node.ask(&["EXEC"]);
    let mut other = Node::new();
    crate::stream::tests::carry_over(&node.engine, &mut cursor, &mut other.engine);
    other.expect(&[("MGET a b c", "*3 $1 1 $1 1 $1 2")]);
}

#[test]
fn a_command_after_mget_finds_its_own_key() {
    let mut node = Node::new();
    node.line("ZADD z 1.5 m");
    // The key stands where the last one of MGET stood, and is as long.
    assert_eq!(eval(&mut node, "redis.call('MGET','a','b','c') return redis.call('ZSCORE','z','m')"), "$3 1.5");
}
