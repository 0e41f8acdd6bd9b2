//! What a user of Redis has to be allowed. (All tests that have a namespace run as such a user.)

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use fairlane::{Broker, Error, testing::TestCluster};
use regex::Regex;

use crate::support::{Sentinels, Server, make_user, message, rights, run, until, user_of};

/// All files of a directory, and of those below it, joined.
fn text(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            text += &self::text(&path);
        // What starts servers for tests, and its own.
        } else if !name.starts_with("test") && name != "embedded.rs" {
            text +=
                fs::read_to_string(&path).unwrap().split("#[cfg(test)]\nmod tests").next().unwrap();
        }
    }
    text
}

/// The commands of the scripts: what is written in capitals as one of Redis's commands is.
async fn of_scripts() -> BTreeSet<String> {
    let known: BTreeSet<String> = run(&["COMMAND", "LIST"]).await;
    let lua = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("lua"));
    let code = lua.lines().map(|line| line.split("--").next().unwrap()).collect::<String>();
    let words = Regex::new(r#""([A-Z]+)""#).unwrap();
    let words = words.captures_iter(&code).map(|word| word[1].to_lowercase());
    words.filter(|word| known.contains(word)).collect()
}

/// The commands of the client, with `container|command` where Redis has that.
fn of_client() -> BTreeSet<String> {
    let rust = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut commands: BTreeSet<String> = Regex::new(r"\.(p(?:un)?subscribe)\(")
        .unwrap()
        .captures_iter(&rust)
        .map(|command| command[1].to_owned())
        .collect();
    for sent in rust.split("cmd(").skip(1) {
        let (names, behind) = sent.split_once(')').unwrap();
        let first = behind.split_once(".arg(\"").and_then(|(_, behind)| behind.split_once('"'));
        // The words in quotes are every second piece.
        commands.extend(names.split('"').skip(1).step_by(2).map(|name| match (name, first) {
            ("SCRIPT" | "CLUSTER" | "CLIENT" | "ACL", Some((first, _))) => {
                format!("{name}|{first}").to_lowercase()
            }
            _ => name.to_lowercase(),
        }));
    }
    commands
}

#[tokio::test]
async fn the_user_in_the_documentation_has_exactly_the_commands_that_are_sent() {
    drop(crate::support::builder().await); // The server of the tests runs.
    let of_cluster = "cluster|slots";
    let mut sent = of_scripts().await;
    assert!(sent.len() > 30 && sent.contains("zadd"), "{sent:?}");
    sent.append(&mut of_client());
    assert!(sent.remove(of_cluster), "only those who use a cluster need it");
    let documented = rights("shop");
    let commands = documented.iter().filter_map(|word| word.strip_prefix('+'));
    assert_eq!(commands.map(str::to_owned).collect::<BTreeSet<_>>(), sent);
    assert!(
        include_str!("../../README.md")
            .contains(&documented.join(" ").replace(">shop", ">password"))
    );
    let documentation = include_str!("../../docs/operations.md").replace('\\', "");
    assert!(documentation.contains(&format!("`+{of_cluster}`")));
}

/// A server with the user of a namespace, and a broker that is this user.
async fn restricted(namespace: &str) -> (Server, fairlane::BrokerBuilder) {
    let server = Server::start(&[]).await;
    let mut redis = server.client().get_multiplexed_async_connection().await.unwrap();
    make_user(&mut redis, namespace).await;
    let builder = server.builder().credentials(user_of(namespace));
    (server, builder)
}

#[tokio::test]
async fn redis_notes_nothing_that_this_user_was_denied() {
    let (server, builder) = restricted("shop").await;
    let broker = builder.namespace("shop").partitions(2).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut listener = broker.listen("*").await.unwrap();
    let waiting = tokio::spawn(queue.lease().wait(Duration::from_secs(10)).into_future());
    until("it waits", || async { server.blocked().await > 0 }).await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    waiting.await.unwrap().unwrap().unwrap().ack().await.unwrap();
    listener.next().await.unwrap().unwrap();
    assert_eq!(queue.doctor().await.unwrap(), []);
    queue.destroy().await.unwrap();
    let denied: Vec<redis::Value> = server.run(&["ACL", "LOG"]).await;
    assert!(denied.is_empty(), "{denied:?}");
}

#[tokio::test]
async fn this_user_reaches_its_own_namespace_alone() {
    let (_server, builder) = restricted("shop").await;
    let refused = builder.namespace("shops").connect().await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    let (_server, builder) = restricted("shop").await;
    let refused = builder.connect().await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
}

#[tokio::test]
async fn this_user_listens_to_a_part_of_the_topics_where_it_has_that_very_glob() {
    let (server, builder) = restricted("shop").await;
    let broker: Broker = builder.namespace("shop").connect().await.unwrap();
    drop(broker.listen("*").await.unwrap());
    let refused = broker.listen("page:*").await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    server.run::<()>(&["ACL", "SETUSER", "shop", "&shop:page:*"]).await;
    drop(broker.listen("page:*").await.unwrap());
}

#[tokio::test]
async fn in_a_cluster_it_asks_for_the_slots_besides() {
    let cluster = TestCluster::start(2).await.unwrap();
    let as_user = |user: &str| {
        let builder = <Broker>::builder().redis(cluster.url()).namespace("shop").partitions(4);
        builder.credentials(user_of(user)).connect()
    };
    for node in cluster.nodes() {
        let client = redis::Client::open(("127.0.0.1", cluster.port(node))).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        make_user(&mut redis, "shop").await;
    }
    let refused = as_user("shop").await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    for node in cluster.nodes() {
        let client = redis::Client::open(("127.0.0.1", cluster.port(node))).unwrap();
        let mut redis = client.get_multiplexed_async_connection().await.unwrap();
        let mut allow = redis::cmd("ACL");
        allow.arg(&["SETUSER", "shop", "+cluster|slots"]).exec_async(&mut redis).await.unwrap();
    }
    let broker = as_user("shop").await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    assert_eq!(*broker.deliver(&message("a", "t", 1)).await.unwrap().queues, ["q".to_owned()]);
}

#[tokio::test]
async fn under_sentinel_redis_notes_nothing_where_it_may_ask_for_the_role() {
    let sentinels = Sentinels::start(0).await;
    let client = redis::Client::open(("127.0.0.1", sentinels.primary().await)).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    make_user(&mut redis, "shop").await;
    for may_ask in [false, true] {
        let mut acl = redis::pipe();
        acl.cmd("ACL").arg(&["SETUSER", "shop", if may_ask { "+role" } else { "-role" }]);
        acl.cmd("ACL").arg(&["LOG", "RESET"]).exec_async(&mut redis).await.unwrap();
        let builder = <Broker>::builder().redis(sentinels.url()).namespace("shop");
        let broker = builder.credentials(user_of("shop")).connect().await.unwrap();
        broker.register_queue("q", ".").await.unwrap();
        broker.deliver(&message("a", "t", 1)).await.unwrap();
        let noted: redis::Value =
            redis::cmd("ACL").arg("LOG").query_async(&mut redis).await.unwrap();
        assert_eq!(format!("{noted:?}").contains(r#""role""#), !may_ask, "{noted:?}");
    }
}
