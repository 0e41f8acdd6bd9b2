//! Headers, and bodies of any bytes.

use std::{sync::Arc, time::Duration};

use fairlane::{
    Broker, BrokerBuilder, Cursor, Error, Headers, Invalid, Message, Missed, QueueSettings,
};
use futures_util::StreamExt;
use serde_json::json;

use crate::support::{Space, builder, message, raw, run, url, user_of};

const SECOND: Duration = Duration::from_secs(1);

/// Bodies that could be taken for something else.
fn bodies() -> Vec<Vec<u8>> {
    let like: [&[u8]; 14] = [
        b"",
        b"\0",
        b"\0\0",
        b"\0 ",
        b"\x000 ",
        b"\x000 body",
        b"\x005 {}   body",
        b"\x002 {}body",
        b"\x0099 {}",
        b"1 2 3 4,h2 ",
        b" ",
        b"\xff\xfe",
        b"\r\n$-1\r\n",
        b"{}",
    ];
    let mut bodies: Vec<Vec<u8>> = like.into_iter().map(Into::into).collect();
    bodies.push((0..=255).collect());
    bodies.push((0..=255).rev().collect());
    bodies.push(vec![0; 100_000]);
    bodies
}

fn headers(all: &[(&str, &str)]) -> Headers {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A type that serde does not know.
#[derive(Debug, PartialEq)]
struct Order(u64);

impl Order {
    fn encode(&self) -> Result<Vec<u8>, String> {
        match self.0 {
            13 => Err("thirteen has no bytes".into()),
            number => Ok(number.to_be_bytes().to_vec()),
        }
    }

    fn decode(body: &[u8]) -> Result<Self, std::array::TryFromSliceError> {
        Ok(Self(u64::from_be_bytes(body.try_into()?)))
    }
}

async fn orders(space: &Space) -> Broker<Order> {
    let now = space.clock.clone();
    let builder = BrokerBuilder::coded(Order::encode, Order::decode).facet(|order| order.0 % 2);
    let builder = builder.topic(|_| "order").clock(move || now.now());
    let builder = builder.redis(url()).credentials(user_of(&space.name));
    builder.namespace(&space.name).connect().await.unwrap()
}

#[tokio::test]
async fn headers_go_with_their_message_wherever_it_goes() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 2).await.unwrap();
    let mut listener = space.broker.listen("*").await.unwrap();
    let body = message("a", "t", 1);
    let odd = [("", ""), ("trace", "00-ab-01"), ("ä \"\\\0", "{\"x\":1} 1,f2 ")];
    let with = odd.iter().fold(Message::new(&body), |m, (name, value)| m.header(*name, *value));
    space.broker.deliver(with.header("trace", "the last one holds")).await.unwrap();
    let mut expected = headers(&odd);
    expected.insert("trace".into(), "the last one holds".into());

    let heard = listener.next().await.unwrap().unwrap();
    assert_eq!((heard.headers, heard.message), (expected.clone(), body.clone()));
    let peeked = queue.peek(1).await.unwrap().remove(0);
    assert_eq!((peeked.headers, peeked.message.unwrap()), (expected.clone(), body.clone()));
    for attempt in 1..=2 {
        let delivery = queue.lease().await.unwrap().unwrap();
        assert_eq!((delivery.headers(), delivery.message().unwrap()), (&expected, &body));
        assert_eq!(delivery.body(), serde_json::to_vec(&body).unwrap());
        assert_eq!(delivery.attempt().get(), attempt);
        delivery.fail("reason").await.unwrap();
        space.clock.advance(SECOND);
    }
    let letters = queue.dead_letters();
    let letter = letters.page(Cursor::default()).await.unwrap().0.remove(0);
    assert_eq!((letter.headers, letter.message.unwrap()), (expected.clone(), body.clone()));
    letters.redrive().await.unwrap();
    assert_eq!(queue.peek(1).await.unwrap()[0].headers, expected);
    assert_eq!(queue.pull().await.unwrap().unwrap(), body);
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn bodies_of_any_bytes_arrive_and_are_heard_exactly_with_headers_and_without() {
    let (space, _) = Space::with_queue().await;
    let broker = space.bytes().await;
    let queue = broker.queue("q");
    space.may_hear(&["t"]).await;
    let mut listener = broker.listen("t").await.unwrap();
    for body in bodies() {
        for with in [&[][..], &[("a", "b")], &[("", "\0")]] {
            let all = headers(with);
            let message =
                all.iter().fold(Message::new(&body), |m, (name, value)| m.header(name, value));
            broker.deliver(message).await.unwrap();
            let heard = listener.next().await.unwrap().unwrap();
            assert_eq!((&heard.message, &heard.headers), (&body, &all), "heard");
            let peeked = queue.peek(1).await.unwrap().remove(0);
            assert_eq!((peeked.message.unwrap(), &peeked.headers), (body.clone(), &all));
            let delivery = queue.lease().await.unwrap().unwrap();
            assert_eq!((delivery.message().unwrap(), delivery.headers()), (&body, &all));
            delivery.nack().await.unwrap();
            assert_eq!(queue.pull().await.unwrap().unwrap(), body);
        }
    }
    // A batch, and one with a key in front of it.
    let all = bodies();
    broker
        .deliver_all(all.iter().map(|body| Message::new(body).header("h", "1").key("k")))
        .await
        .unwrap();
    assert_eq!(queue.pull_many(99).await.unwrap().remove(0).unwrap(), all[0]);
    broker.deliver_all(all.iter()).await.unwrap();
    let pulled: Vec<_> =
        queue.pull_many(99).await.unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(pulled, all);
    space.end().await;
}

#[tokio::test]
async fn what_others_publish_is_all_body() {
    let space = Space::new().await;
    let broker = space.bytes().await;
    space.may_hear(&["t"]).await;
    let mut listener = broker.listen("t").await.unwrap();
    for body in [&b"\0"[..], b"\0x", b"\x00abc def", b"\x0099 short", b"\0-1 x", b"plain"] {
        let channel = format!("{}:t", space.name);
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(body).exec_async(&mut raw().await).await.unwrap();
        let heard = listener.next().await.unwrap().unwrap();
        assert_eq!((&heard.message[..], heard.headers.len()), (body, 0));
    }
    space.end().await;
}

#[tokio::test]
async fn without_headers_the_channel_carries_the_body_alone() {
    let space = Space::new().await;
    let mut listener = redis::Client::open(url()).unwrap().get_async_pubsub().await.unwrap();
    listener.subscribe(format!("{}:t", space.name)).await.unwrap();
    let body = message("a", "t", 1);
    space.broker.deliver(&body).await.unwrap();
    space.broker.deliver(Message::new(&body).header("a", "b")).await.unwrap();
    let text = serde_json::to_string(&body).unwrap();
    let mut heard = listener.on_message();
    for payload in [text.clone(), format!("\x009 {{\"a\":\"b\"}}{text}")] {
        assert_eq!(heard.next().await.unwrap().get_payload_bytes(), payload.as_bytes());
    }
    space.end().await;
}

#[tokio::test]
async fn headers_are_16_kib_at_most() {
    let (space, queue) = Space::with_queue().await;
    let body = message("a", "t", 1);
    let before = space.keys().await;
    // {"n":"x .."}: 8 bytes besides the value; what JSON escapes counts as it is written.
    let most = (16 << 10) - 8;
    for over in ["x".repeat(most + 1), "\"".repeat(most / 2 + 1)] {
        let batch = [Message::new(&body), Message::new(&body).header("n", over)];
        let refused = space.broker.deliver_all(batch).await.err().unwrap();
        assert!(
            matches!(
                refused,
                Error::Invalid(Invalid::TooLong { what: "headers", most: 16384, .. })
            ),
            "{refused:?}"
        );
    }
    assert_eq!(space.keys().await, before);
    space.broker.deliver(Message::new(&body).header("n", "x".repeat(most))).await.unwrap();
    let delivery = queue.lease().await.unwrap().unwrap();
    assert_eq!(delivery.headers()["n"].len(), most);
    delivery.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn headers_and_a_key_do_not_count_as_body() {
    let space = Space::with(|builder| builder.max_body(10)).await;
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    let body = json!("12345678");
    let message = Message::new(&body).facet("a").topic("t").key("k".repeat(100));
    space.broker.deliver(message.header("n", "x".repeat(100))).await.unwrap();
    assert_eq!(queue.pull().await.unwrap(), Some(body));
    space.end().await;
}

#[tokio::test]
async fn a_type_without_serde_is_delivered_by_its_own_closures() {
    let (space, _) = Space::with_queue().await;
    let broker = orders(&space).await;
    let queue = broker.queue("q");
    space.may_hear(&["order"]).await;
    let mut listener = broker.listen("order").await.unwrap();
    broker.deliver(&Order(7)).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap().message, Order(7));
    let delivery = queue.lease().await.unwrap().unwrap();
    assert_eq!((delivery.message().unwrap(), delivery.facet()), (&Order(7), "1"));
    assert_eq!(delivery.body(), 7u64.to_be_bytes());
    delivery.ack().await.unwrap();
    broker.deliver_all(&[Order(0), Order(258)]).await.unwrap();
    let pulled: Vec<_> =
        queue.pull_many(9).await.unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(pulled, [Order(0), Order(258)]);
    space.end().await;
}

#[tokio::test]
async fn what_does_not_encode_is_invalid_and_stops_its_batch() {
    let (space, queue) = Space::with_queue().await;
    let broker = orders(&space).await;
    let before = space.keys().await;
    match broker.deliver(&Order(13)).await {
        Err(Error::Invalid(Invalid::Encode { source })) => {
            assert_eq!(source.to_string(), "thirteen has no bytes");
        }
        other => panic!("{other:?}"),
    }
    let refused = broker.deliver_all(&[Order(1), Order(13)]).await;
    assert!(matches!(refused, Err(Error::Invalid(Invalid::Encode { .. }))));
    assert_eq!(space.keys().await, before);
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn what_does_not_decode_is_told_with_its_body_and_headers() {
    let (space, _) = Space::with_queue().await;
    let (bytes, broker) = (space.bytes().await, orders(&space).await);
    let queue = broker.queue("q");
    space.may_hear(&["t"]).await;
    let mut listener = broker.listen("t").await.unwrap();
    let (short, good) = (b"\0short".to_vec(), 5u64.to_be_bytes().to_vec());
    let send = async || bytes.deliver(Message::new(&short).header("a", "b")).await.unwrap().id;

    let id = send().await;
    let Some(Err(Missed::Undecodable(missed))) = listener.next().await else { panic!() };
    assert_eq!((missed.id, &missed.body[..], &*missed.topic), (None, &short[..], "t"));
    let peeked = queue.peek(1).await.unwrap().remove(0);
    assert_eq!((&*peeked.message.unwrap_err().body, &*peeked.headers["a"]), (&short[..], "b"));
    match queue.pull().await {
        Err(Error::Undecodable(undecodable)) => {
            assert_eq!((undecodable.id, undecodable.body), (Some(id), Arc::from(&short[..])));
        }
        other => panic!("{other:?}"),
    }
    send().await;
    let delivery = queue.lease().await.unwrap().unwrap();
    let undecodable = delivery.message().unwrap_err();
    assert_eq!((&*undecodable.body, delivery.body()), (&short[..], &short[..]));
    assert_eq!(delivery.headers()["a"], "b");
    delivery.ack().await.unwrap();
    send().await;
    bytes.deliver(&good).await.unwrap();
    let pulled = queue.pull_many(9).await.unwrap();
    assert_eq!(&*pulled[0].as_ref().unwrap_err().body, &short[..]);
    assert_eq!(pulled[1].as_ref().unwrap(), &Order(5));
    space.end().await;
}

#[tokio::test]
async fn closures_of_a_builder_take_the_place_of_json() {
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    let turned = |body: &[u8]| body.iter().map(|byte| !byte).collect::<Vec<_>>();
    let now = space.clock.clone();
    let secret: Broker = builder()
        .await
        .encode(move |body| serde_json::to_vec(body).map(|json| turned(&json)))
        .decode(move |body| serde_json::from_slice(&turned(body)))
        .namespace(&space.name)
        .clock(move || now.now())
        .connect()
        .await
        .unwrap();
    let body = json!({"facet": "a", "topic": "t"});
    let refused = secret.deliver(&body).await;
    assert!(
        matches!(refused, Err(Error::Invalid(Invalid::Missing { field: "facet" }))),
        "what is not JSON has no fields"
    );
    secret.deliver(Message::new(&body).facet("a").topic("t")).await.unwrap();
    let stored: Vec<u8> = run(&["LINDEX", &space.of("q", "f:a"), "0"]).await;
    assert!(stored.ends_with(&turned(&serde_json::to_vec(&body).unwrap())));
    assert_eq!(secret.queue("q").pull().await.unwrap(), Some(body));
    space.end().await;
}
