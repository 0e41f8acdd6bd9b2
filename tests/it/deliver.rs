use fairlane::{Error, Invalid, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::{self, Space, deliver, message, run};

#[tokio::test]
async fn a_message_goes_to_every_queue_that_its_topic_matches() {
    let space = Space::new().await;
    let pages = space.broker.register_queue("pages", "^page:").await.unwrap();
    let google = space.broker.register_queue("google", "^page:.*google").await.unwrap();
    let other = space.broker.register_queue("other", "^mail:").await.unwrap();
    let sent = message("acme", "page:www.google.com", 1);
    let receipt = space.broker.deliver(&sent).await.unwrap();
    assert_eq!(*receipt.queues, ["google".to_owned(), "pages".to_owned()]);
    assert_eq!(pages.pull().await.unwrap(), Some(sent.clone()));
    assert_eq!(google.pull().await.unwrap(), Some(sent));
    assert_eq!(other.pull().await.unwrap(), None);
    space.end().await;
}

#[tokio::test]
async fn a_message_that_no_queue_wants_is_not_kept_and_the_receipt_says_so() {
    let space = Space::new().await;
    space.broker.register_queue("q", "^foo$").await.unwrap();
    let receipt = space.broker.deliver(&message("a", "bar", 1)).await.unwrap();
    assert!(receipt.queues.is_empty());
    assert_eq!(receipt.listeners, 0);
    space.end().await;
}

#[tokio::test]
async fn ids_grow_with_each_message_of_a_namespace() {
    let space = Space::new().await;
    let first = space.broker.deliver(&message("a", "t", 1)).await.unwrap().id;
    let all = [message("a", "t", 2), message("b", "t", 3)];
    let rest = space.broker.deliver_all(&all).await.unwrap();
    assert!(first < rest[0].id && rest[0].id < rest[1].id);
    space.end().await;
}

#[tokio::test]
async fn a_listener_hears_the_body_on_the_channel_of_namespace_and_topic() {
    let space = Space::new().await;
    let url = support::url();
    let mut listener = redis::Client::open(url).unwrap().get_async_pubsub().await.unwrap();
    listener.psubscribe(format!("{}:page:*google*", space.name)).await.unwrap();
    let sent = message("acme", "page:google", 1);
    let receipt = space.broker.deliver(&sent).await.unwrap();
    assert_eq!(receipt.listeners, 1);
    let heard = listener.on_message().next().await.unwrap();
    assert_eq!(heard.get_channel_name(), format!("{}:page:google", space.name));
    assert_eq!(serde_json::from_slice::<Value>(heard.get_payload_bytes()).unwrap(), sent);
    space.end().await;
}

#[tokio::test]
async fn without_a_namespace_the_channel_is_the_topic_itself() {
    let server = support::Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let mut listener = server.client().get_async_pubsub().await.unwrap();
    listener.psubscribe("page:*google*").await.unwrap();
    let receipt = broker.deliver(&message("acme", "page:google", 1)).await.unwrap();
    assert_eq!(receipt.listeners, 1);
    let heard = listener.on_message().next().await.unwrap();
    assert_eq!(heard.get_channel_name(), "page:google");
}

#[tokio::test]
async fn facet_and_topic_of_a_message_come_before_those_of_the_closures() {
    let space = Space::new().await;
    let queue = space.broker.register_queue("q", "^given$").await.unwrap();
    let body = json!({"neither": 1});
    let given = Message::new(&body).facet("acme").topic("given");
    let receipt = space.broker.deliver(given).await.unwrap();
    assert_eq!(receipt.queues.len(), 1);
    let delivery = queue.lease().await.unwrap().unwrap();
    assert_eq!((delivery.facet(), delivery.topic()), ("acme", "given"));
    delivery.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn without_closures_facet_and_topic_are_the_fields_of_the_body() {
    let (space, queue) = Space::with_queue().await;
    let cases = [
        (json!("acme"), "acme"),
        (json!(7), "7"),
        (json!(18446744073709551615u64), "18446744073709551615"),
        (json!(1.50), "1.5"),
        (json!(-3), "-3"),
        (json!(true), "true"),
        (json!("a \"quoted\" one"), "a \"quoted\" one"),
    ];
    for (field, facet) in cases {
        space.broker.deliver(&json!({"facet": field, "topic": "t"})).await.unwrap();
        let delivery = queue.lease().await.unwrap().unwrap();
        assert_eq!(delivery.facet(), facet);
        delivery.ack().await.unwrap();
    }
    space.end().await;
}

#[tokio::test]
async fn a_body_without_a_facet_or_topic_is_refused_by_the_name_of_the_field() {
    let space = Space::new().await;
    let cases = [
        (json!({"topic": "t"}), "facet"),
        (json!({"facet": null, "topic": "t"}), "facet"),
        (json!({"facet": ["a"], "topic": "t"}), "facet"),
        (json!({"facet": "a"}), "topic"),
        (json!({"facet": "a", "topic": {}}), "topic"),
        (json!("a string"), "facet"),
        (json!([1, 2]), "facet"),
    ];
    for (body, missing) in cases {
        match space.broker.deliver(&body).await {
            Err(Error::Invalid(Invalid::Missing { field })) => assert_eq!(field, missing, "{body}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    assert!(space.keys().await.is_empty(), "nothing was written");
    space.end().await;
}

#[tokio::test]
async fn an_empty_or_long_facet_or_topic_is_refused() {
    let space = Space::new().await;
    let body = json!(1);
    let long = "x".repeat(513);
    for (facet, topic) in [("", "t"), ("a", ""), (&*long, "t"), ("a", &*long)] {
        let refused = space.broker.deliver(Message::new(&body).facet(facet).topic(topic)).await;
        assert!(matches!(
            refused,
            Err(Error::Invalid(Invalid::Empty { .. } | Invalid::TooLong { .. }))
        ));
    }
    let most = "x".repeat(512);
    space.broker.deliver(Message::new(&body).facet(&most).topic(&most)).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let space = Space::with(|builder| builder.max_body(10)).await;
    let (at, over) = (json!("12345678"), json!("123456789"));
    space.broker.deliver(Message::new(&at).facet("a").topic("t")).await.unwrap();
    match space.broker.deliver(Message::new(&over).facet("a").topic("t")).await {
        Err(Error::Invalid(Invalid::TooLong { what: "body", len: 11, most: 10 })) => {}
        other => panic!("{other:?}"),
    }
    space.end().await;
}

#[tokio::test]
async fn one_bad_message_stops_a_batch_before_anything_is_sent() {
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    let batch = [message("a", "t", 1), json!({"facet": "a"}), message("a", "t", 2)];
    assert!(matches!(space.broker.deliver_all(&batch).await, Err(Error::Invalid(_))));
    assert_eq!(space.broker.queue("q").pull().await.unwrap(), None);
    space.end().await;
}

#[tokio::test]
async fn a_large_batch_is_cut_and_arrives_whole_and_in_order() {
    let (space, queue) = Space::with_queue().await;
    let batch: Vec<_> = (0..2500).map(|n| message(&format!("f{}", n % 7), "t", n)).collect();
    let receipts = space.broker.deliver_all(&batch).await.unwrap();
    assert_eq!(receipts.len(), 2500);
    assert!(receipts.windows(2).all(|pair| pair[0].id < pair[1].id));
    let mut last = [None; 7];
    let mut total = 0;
    loop {
        let pulled = queue.pull_many(1000).await.unwrap();
        if pulled.is_empty() {
            break;
        }
        for message in pulled {
            let n = message.unwrap()["n"].as_u64().unwrap();
            let last = &mut last[n as usize % 7];
            assert!(last.is_none_or(|last| last < n), "out of order within a facet");
            *last = Some(n);
            total += 1;
        }
    }
    assert_eq!(total, 2500);
    space.end().await;
}

#[tokio::test]
async fn large_bodies_are_delivered_one_to_a_part_if_need_be() {
    let (space, queue) = Space::with_queue().await;
    let body = json!({"facet": "a", "topic": "t", "n": 0, "fill": "x".repeat(1_000_000)});
    let receipts = space.broker.deliver_all([&body; 6]).await.unwrap();
    assert_eq!(receipts.len(), 6);
    // A take gives at most 4 MiB: four of these.
    assert_eq!(queue.pull_many(10).await.unwrap().len(), 4);
    assert_eq!(queue.pull_many(10).await.unwrap().len(), 2);
    space.end().await;
}

#[tokio::test]
async fn a_batch_is_cut_by_its_bytes() {
    let server = support::Server::start(&[]).await;
    let proxy = support::Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    broker.queues().await.unwrap();
    // Published and queued, each is 280 KB of writes: two would be more than 512 KiB.
    let body = json!({"facet": "a", "topic": "t", "fill": "x".repeat(140_000)});
    broker.deliver(&body).await.unwrap();
    let before = proxy.scripts();
    broker.deliver_all([&body; 6]).await.unwrap();
    assert_eq!(proxy.scripts() - before, 6);
}

#[tokio::test]
async fn a_take_is_cut_by_its_bytes() {
    let server = support::Server::start(&[]).await;
    let proxy = support::Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    // Three fit into 512 KiB; the large one is moved alone.
    let messages = [150_000, 150_000, 150_000, 150_000, 900_000, 150_000, 150_000]
        .map(|bytes| json!({"facet": "a", "topic": "t", "n": bytes, "fill": "x".repeat(bytes)}));
    assert!(queue.lease_many(7).await.unwrap().is_empty());
    assert!(queue.pull_many(7).await.unwrap().is_empty());
    for lease in [true, false] {
        broker.deliver_all(&messages).await.unwrap();
        let before = proxy.scripts();
        if lease {
            let leased = queue.lease_many(7).await.unwrap();
            assert_eq!(leased.len(), 7);
            assert_eq!(proxy.scripts() - before, 4);
            assert!(broker.ack_all(leased).await.unwrap().is_empty());
        } else {
            let pulled = queue.pull_many(7).await.unwrap();
            assert_eq!(proxy.scripts() - before, 4);
            let order: Vec<_> = pulled.into_iter().map(Result::unwrap).collect();
            assert_eq!(order, messages, "in their order");
        }
    }
}

#[tokio::test]
async fn a_batch_that_fails_in_the_middle_says_what_is_safe() {
    let (space, queue) = Space::with_queue().await;
    // A key in the way of facet `bad` refuses the part that has it.
    run::<()>(&["SET", &space.of("q", "f:bad"), "in the way"]).await;
    let facet = |n| if n == 1200 { "bad" } else { "good" };
    let batch: Vec<_> = (0..2500).map(|n| message(facet(n), "t", n)).collect();
    match space.broker.deliver_all(&batch).await {
        Err(Error::Interrupted { delivered, beyond, source }) => {
            assert_eq!((delivered.len(), beyond.len()), (1000, 0));
            assert!(matches!(*source, Error::WrongType(_)));
        }
        other => panic!("{:?}", other.map(|receipts| receipts.len())),
    }
    let mut safe = 0;
    while let Some(message) = queue.pull().await.unwrap() {
        assert_eq!(message["n"], safe);
        safe += 1;
    }
    assert_eq!(safe, 1000, "what is safe is there, and nothing else");
    run::<()>(&["DEL", &space.of("q", "f:bad")]).await;
    space.end().await;
}

#[tokio::test]
async fn a_message_with_a_wrong_key_in_its_way_reaches_none_of_its_queues() {
    let space = Space::new().await;
    for queue in ["a", "b", "c"] {
        space.broker.register_queue(queue, ".").await.unwrap();
    }
    space.broker.queue("b").facet("other").pause().await.unwrap(); // So that it reads parked, too.
    for key in ["f:acme", "ready", "idle", "clock", "settings", "parked", "wake"] {
        run::<()>(&["SET", &space.of("b", key), "in the way"]).await;
        let before = space.keys().await;
        let refused = space.broker.deliver(&message("acme", "t", 1)).await;
        assert!(matches!(refused, Err(Error::WrongType(_))), "{key}: {refused:?}");
        assert_eq!(space.keys().await, before, "{key}: something was written");
        run::<()>(&["DEL", &space.of("b", key)]).await;
    }
    space.broker.queue("b").facet("other").resume().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn facets_and_topics_may_hold_whatever_a_string_holds() {
    let space = Space::new().await;
    let queue = space.broker.register_queue("q", r"(?s).").await.unwrap();
    let names = [
        "length",
        "inflight",
        "a:b",
        "{x}",
        "}{",
        "two\nlines",
        "nul\0inside",
        "\0",
        "😀",
        " ",
        "1 2 3",
        "*",
        "f:",
        "ready",
        "q:q:ready",
        ":version",
        "\u{7f}",
        "\"",
        "\\",
    ];
    for name in names {
        space.broker.deliver(Message::new(&json!(name)).facet(name).topic(name)).await.unwrap();
    }
    let mut deliveries = queue.lease_many(100).await.unwrap();
    assert_eq!(deliveries.len(), names.len());
    for (delivery, name) in deliveries.iter().zip(names) {
        assert_eq!((delivery.facet(), delivery.topic()), (name, name));
        assert_eq!(delivery.message().unwrap(), name);
    }
    deliveries.pop().unwrap().nack().await.unwrap();
    assert!(space.broker.ack_all(deliveries).await.unwrap().is_empty());
    let last = queue.lease().await.unwrap().unwrap();
    assert_eq!((last.facet(), last.attempt().get()), ("\\", 2));
    last.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_delivery_goes_by_the_routes_of_its_moment_not_by_those_it_remembers() {
    let space = Space::new().await;
    let other = space.another().await;
    space.broker.register_queue("q", "^a$").await.unwrap();
    assert!(space.broker.deliver(&message("f", "b", 1)).await.unwrap().queues.is_empty());
    other.register_queue("q", "^b$").await.unwrap();
    assert_eq!(space.broker.deliver(&message("f", "b", 2)).await.unwrap().queues.len(), 1);
    assert!(space.broker.deliver(&message("f", "a", 3)).await.unwrap().queues.is_empty());
    other.unregister_queue("q").await.unwrap();
    assert!(space.broker.deliver(&message("f", "b", 4)).await.unwrap().queues.is_empty());
    assert_eq!(space.broker.queue("q").pull_many(9).await.unwrap().len(), 1);
    space.end().await;
}

#[tokio::test]
async fn routes_that_were_deleted_with_the_namespace_are_not_remembered() {
    let space = Space::new().await;
    space.broker.register_queue("old", ".").await.unwrap();
    deliver(&space.broker, "f", 1).await;
    space.delete_keys().await;
    space.clock.advance(std::time::Duration::from_millis(1));
    let other = space.another().await;
    other.register_queue("new", ".").await.unwrap();
    let receipt = space.broker.deliver(&message("f", "t", 1)).await.unwrap();
    assert_eq!(*receipt.queues, ["new".to_owned()]);
    space.delete().await;
}

#[tokio::test]
async fn what_redis_does_for_a_delivery_does_not_grow_with_the_routes_that_do_not_match() {
    let server = support::Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    broker.register_queue("hit", "^hit$").await.unwrap();
    let commands = async || {
        broker.deliver(&message("a", "hit", 0)).await.unwrap(); // loads the routes
        server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
        broker.deliver(&message("a", "hit", 1)).await.unwrap();
        let stats: String = server.run(&["INFO", "commandstats"]).await;
        let calls =
            |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
        stats
            .lines()
            .filter(|line| !line.contains("info") && !line.contains("config"))
            .filter_map(calls)
            .sum::<u64>()
    };
    let few = commands().await;
    for n in 0..300 {
        broker.register_queue(&format!("miss-{n}"), &format!("^miss-{n}$")).await.unwrap();
    }
    assert_eq!(commands().await, few);
}

#[tokio::test]
async fn brokers_of_different_types_share_a_connection() {
    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Order {
        account: u64,
        kind: String,
    }
    let space = Space::new().await;
    let orders = space.broker.with_type::<Order>();
    let orders = orders.facet(|order| order.account).topic(|order| format!("order:{}", order.kind));
    let queue = orders.register_queue("orders", "^order:new$").await.unwrap();
    let order = Order { account: 17, kind: "new".into() };
    orders.deliver(&order).await.unwrap();
    space.broker.deliver(&message("a", "page", 1)).await.unwrap();
    let delivery = queue.lease().await.unwrap().unwrap();
    assert_eq!((delivery.message().unwrap(), delivery.facet()), (&order, "17"));
    delivery.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_message_that_does_not_encode_is_refused() {
    use std::collections::BTreeMap;
    let space = Space::new().await;
    let broker = space.broker.with_type::<BTreeMap<(u8, u8), u8>>();
    let body = BTreeMap::from([((1, 2), 3)]); // JSON wants strings as keys.
    let refused = broker.deliver(Message::new(&body).facet("a").topic("t")).await;
    assert!(matches!(refused, Err(Error::Invalid(Invalid::Encode { .. }))), "{refused:?}");
    space.end().await;
}

#[tokio::test]
async fn an_empty_batch_is_delivered_without_a_call() {
    let space = Space::new().await;
    assert!(space.broker.deliver_all(&[] as &[Value]).await.unwrap().is_empty());
    assert!(space.keys().await.is_empty());
    space.end().await;
}
