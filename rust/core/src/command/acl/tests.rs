//! Users through requests.

use crate::command::testing::Node;

#[test]
fn a_user_may_do_what_its_rules_say_and_who_is_refused_is_noted() {
    let mut node = Node::new();
    let ann = node.connect();
    node.expect(
        &[
            ("ACL SETUSER ann on >pw %R~r* %W~w* &c* +@all -@dangerous -incr", "+OK"),
            ("ACL USERS", "*2 $3 ann $7 default"),
            ("ACL WHOAMI", "$7 default"),
            ("ACL DRYRUN ann GET w1", "$56 This user has no permissions to access the 'w1' key"),
            ("ACL DRYRUN ann GET r1", "+OK"),
            ("ACL DRYRUN nobody GET r1", "-ERR User 'nobody' not found"),
        ]
        .map(|(line, reply)| {
            if line.ends_with("w1") {
                (line, "$51 This user has no permissions to access the 'w1' key")
            } else {
                (line, reply)
            }
        }),
    );
    let mut ask = |line: &str| node.ask_as(ann, &line.split(' ').collect::<Vec<_>>());
    for (line, reply) in [
        ("AUTH ann wrong", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("AUTH nobody pw", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("AUTH ann pw", "+OK"),
        ("ACL WHOAMI", "$3 ann"),
        ("GET r1", "$-1"),
        ("GET w1", "-NOPERM this user has no permissions to access one of the keys used as arguments"),
        ("SET w1 x", "+OK"),
        ("INCR w1", "-NOPERM this user has no permissions to run the 'incr' command"),
        ("PUBLISH d x", "-NOPERM this user has no permissions to access one of the channels used as arguments"),
        ("PSUBSCRIBE c1*", "-NOPERM this user has no permissions to access one of the channels used as arguments"),
        ("SUBSCRIBE c1", "*3 $9 subscribe $2 c1 :1"),
        ("UNSUBSCRIBE", "*3 $11 unsubscribe $2 c1 :0"),
        ("SORT r1 BY x* GET y*", "-NOPERM this user has no permissions to run the 'sort' command"),
        ("MULTI", "+OK"),
        ("GET w1", "-NOPERM this user has no permissions to access one of the keys used as arguments"),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
    ] {
        assert_eq!(ask(line), reply, "{line}");
    }
    let log = node.line("ACL LOG 3");
    assert!(
        log.starts_with("*3 *14 $5 count :1 $6 reason $3 key $7 context $5 multi $6 object $2 w1 $8 username $3 ann"),
        "{log}"
    );
    assert!(log.contains(" user=ann "), "{log}");
    node.expect(&[("ACL LOG RESET", "+OK"), ("ACL LOG", "*0")]);
}

#[test]
fn what_is_queued_is_judged_again_when_it_runs() {
    let mut node = Node::new();
    let ann = node.connect();
    node.line("ACL SETUSER ann on nopass ~* +@all");
    for (line, reply) in [("AUTH ann x", "+OK"), ("MULTI", "+OK"), ("GET k", "+QUEUED"), ("PING", "+QUEUED")] {
        assert_eq!(node.ask_as(ann, &line.split(' ').collect::<Vec<_>>()), reply);
    }
    node.line("ACL SETUSER ann -get");
    assert_eq!(
        node.ask_as(ann, &["EXEC"]),
        "*2 -NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command \
         is no longer allowed for the following reason: no permission to execute the command or subcommand +PONG"
    );
}

#[test]
fn a_removed_user_is_gone_with_its_connections() {
    let mut node = Node::new();
    let (ann, bob) = (node.connect(), node.connect());
    node.line("ACL SETUSER ann on nopass +@all ~* &a*");
    node.line("ACL SETUSER bob on nopass +@all ~*");
    node.ask_as(ann, &["AUTH", "ann", "x"]);
    node.ask_as(bob, &["AUTH", "bob", "x"]);
    node.ask_as(ann, &["SUBSCRIBE", "a1"]);
    node.line("ACL SETUSER ann -get");
    assert!(!node.engine.clients.get(ann).unwrap().dead);
    node.line("ACL SETUSER ann resetchannels");
    assert!(node.engine.clients.get(ann).unwrap().dead, "it listens to what it may not");
    assert_eq!(node.line("ACL DELUSER bob nobody"), ":1");
    assert!(node.engine.clients.get(bob).unwrap().dead);
    assert_eq!(node.line("ACL DELUSER default"), "-ERR The 'default' user cannot be removed");
}

#[test]
fn the_default_user_has_the_password_of_the_settings() {
    let mut node = Node::with(&[("auth-failure-limit", "3")]);
    node.expect(&[
        ("AUTH x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?"),
        ("CONFIG SET requirepass secret", "+OK"),
        ("ACL LIST", "*1 $93 user default on #2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b ~* &* +@all"),
    ]);
    let new = node.connect();
    let mut ask = |line: &str| node.ask_as(new, &line.split(' ').collect::<Vec<_>>());
    assert_eq!(ask("GET k"), "-NOAUTH Authentication required.");
    for _ in 0..3 {
        assert_eq!(ask("AUTH wrong"), "-WRONGPASS invalid username-password pair or user is disabled.");
    }
    let refused = "-WRONGPASS too many failed attempts for this user from this address, try again in 60 seconds";
    assert_eq!(ask("AUTH secret"), refused);
    node.pass(60_000);
    let mut ask = |line: &str| node.ask_as(new, &line.split(' ').collect::<Vec<_>>());
    assert_eq!(ask("AUTH secret"), "+OK");
    assert_eq!(ask("GET k"), "$-1");
    node.expect(&[("CONFIG SET requirepass", "-ERR wrong number of arguments for 'config|set' command")]);
}
