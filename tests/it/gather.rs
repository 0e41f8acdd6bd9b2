//! What concurrent tasks call at the same time goes out together, and each has an outcome of its
//! own.

use std::{
    collections::{BTreeSet, HashMap},
    future::IntoFuture,
    time::Duration,
};

use fairlane::{Broker, Delivery, Error, Queue, Token};
use futures_util::{
    future::{join_all, poll_immediate},
    stream::{FuturesUnordered, StreamExt},
};

use crate::support::{Proxy, Server, Space, deliver, message, run};

const SECOND: Duration = Duration::from_secs(1);

async fn served(server: &Server) -> (Broker, Queue) {
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    (broker, queue)
}

/// Makes a call in as many tasks, each.
async fn at_once<Out: Send + 'static>(
    count: u64,
    call: impl Fn(u64) -> futures_util::future::BoxFuture<'static, Out>,
) -> Vec<Out> {
    let tasks: Vec<_> = (0..count).map(|n| tokio::spawn(call(n))).collect();
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn concurrent_calls_go_out_together_and_a_lone_one_alone() {
    let server = Server::start(&[]).await;
    let (broker, queue) = served(&server).await;
    broker.deliver(&message("warm", "up", 0)).await.unwrap();
    assert!(queue.pull().await.unwrap().is_some());
    let before = server.calls("evalsha").await;
    let receipts = at_once(200, |n| {
        let broker = broker.clone();
        Box::pin(async move { broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap() })
    })
    .await;
    let ids: BTreeSet<_> = receipts.iter().map(|receipt| receipt.id).collect();
    assert_eq!(ids.len(), 200, "each has a receipt of its own");
    assert!(receipts.iter().all(|receipt| *receipt.queues == ["q"]));
    let leased: Vec<Delivery> = at_once(200, |_| {
        let lease = queue.lease();
        Box::pin(async move { lease.await.unwrap().unwrap() })
    })
    .await;
    let numbers: BTreeSet<_> =
        leased.iter().map(|one| one.message().unwrap()["n"].as_u64()).collect();
    assert_eq!(numbers.len(), 200, "each has a message of its own");
    let tokens: Vec<Token> = leased.into_iter().map(Token::from).collect();
    at_once(200, |n| {
        let (broker, token) = (broker.clone(), tokens[n as usize].clone());
        Box::pin(async move { broker.ack(&token).await.unwrap() })
    })
    .await;
    assert_eq!(queue.stats().await.unwrap().acked, 200);
    let together = server.calls("evalsha").await - before;
    assert!(together <= 13, "{together} calls for 600");

    let before = server.calls("evalsha").await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    queue.lease().await.unwrap().unwrap().ack().await.unwrap();
    assert_eq!(server.calls("evalsha").await - before, 3);
}

#[tokio::test]
async fn one_that_is_refused_does_not_take_the_others_with_it() {
    let (space, queue) = Space::with_queue().await;
    run::<()>(&["SET", &space.of("q", "f:bad"), "in the way"]).await;
    let outcomes = at_once(50, |n| {
        let broker = space.broker.clone();
        let facet = if n == 20 { "bad" } else { "good" };
        Box::pin(async move { broker.deliver(&message(facet, "t", n)).await })
    })
    .await;
    for (n, outcome) in outcomes.iter().enumerate() {
        match n {
            20 => assert!(matches!(outcome, Err(Error::WrongType(_))), "{outcome:?}"),
            _ => assert!(outcome.is_ok(), "{n}: {outcome:?}"),
        }
    }
    let pulled = queue.pull_many(100).await.unwrap();
    let numbers: BTreeSet<_> =
        pulled.iter().map(|message| message.as_ref().unwrap()["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..50).filter(|n| *n != 20).collect(), "each once");
    assert_eq!(pulled.len(), 49);
    run::<()>(&["DEL", &space.of("q", "f:bad")]).await;
    space.end().await;
}

#[tokio::test]
async fn of_acks_that_go_together_each_is_told_of_its_own_lease() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 20).await;
    let mut tokens: Vec<Token> =
        queue.lease_many(10).await.unwrap().into_iter().map(Token::from).collect();
    for _ in 0..10 {
        tokens.push(queue.lease().await.unwrap().unwrap().into());
    }
    space.broker.ack(&tokens[3]).await.unwrap();
    space.broker.nack(&tokens[15]).await.unwrap();
    tokens.push(tokens[7].clone()); // Twice: one of them is too late.
    let outcomes = at_once(21, |n| {
        let (broker, token) = (space.broker.clone(), tokens[n as usize].clone());
        Box::pin(async move { broker.ack(&token).await })
    })
    .await;
    let mut lost = HashMap::new();
    for (token, outcome) in tokens.iter().zip(outcomes) {
        match outcome {
            Ok(()) => {}
            Err(Error::LeaseLost(_)) => *lost.entry(token.clone()).or_insert(0) += 1,
            Err(error) => panic!("{error}"),
        }
    }
    let expected = [3, 7, 15].map(|n: usize| (tokens[n].clone(), 1));
    assert_eq!(lost, HashMap::from(expected));
    assert!(queue.pull().await.unwrap().is_some(), "the one that was given back");
    space.end().await;
}

#[tokio::test]
async fn a_bound_of_bytes_leaves_no_task_without_a_message_that_is_there() {
    let (space, queue) = Space::with_queue().await;
    let body = serde_json::json!({"facet": "a", "topic": "t", "fill": "x".repeat(1_000_000)});
    for _ in 0..10 {
        space.broker.deliver(&body).await.unwrap();
    }
    let pulled = at_once(12, |_| {
        let pull = queue.pull();
        Box::pin(async move { pull.await.unwrap() })
    })
    .await;
    assert_eq!(pulled.iter().filter(|message| message.is_some()).count(), 10);
    space.end().await;
}

#[tokio::test]
async fn those_who_ask_for_many_and_those_who_ask_for_one_get_all_there_is() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 700).await;
    let counts = at_once(20, |n| {
        let lease = queue.lease_many(if n % 2 == 0 { 60 } else { 1 });
        Box::pin(async move { lease.await.unwrap() })
    })
    .await;
    let all: BTreeSet<_> = counts.iter().flatten().map(Delivery::id).collect();
    assert_eq!((all.len(), counts.iter().map(Vec::len).sum::<usize>()), (610, 610));
    let tokens: Vec<Token> = counts.into_iter().flatten().map(Token::from).collect();
    assert!(space.broker.ack_all(tokens).await.unwrap().is_empty());
    assert_eq!(queue.pull_many(100).await.unwrap().len(), 90);
    space.end().await;
}

#[tokio::test]
async fn what_is_dropped_before_it_goes_out_is_not_sent() {
    let (space, queue) = Space::with_queue().await;
    let [one, two] = [1, 2].map(|n| message("a", "t", n));
    // The first goes out at once. The second stands among those that are about to go.
    let mut first = Box::pin(space.broker.deliver(&one));
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(poll_immediate(Box::pin(space.broker.deliver(&two))).await.is_none());
    first.await.unwrap();
    let pulled = queue.pull_many(9).await.unwrap();
    assert_eq!(pulled.len(), 1);
    assert_eq!(pulled[0].as_ref().unwrap()["n"], 1);

    deliver(&space.broker, "a", 2).await;
    let mut first = queue.lease().into_future();
    assert!(futures_util::poll!(&mut first).is_pending());
    assert!(poll_immediate(queue.lease().into_future()).await.is_none());
    assert!(first.await.unwrap().is_some());
    assert!(queue.pull().await.unwrap().is_some(), "the one that was dropped took nothing");
    space.delete().await;
}

#[test]
fn a_runtime_that_stands_still_holds_up_no_other() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (still, other) = (runtime(), runtime());
    let space = other.block_on(Space::new());
    let (broker, [one, two, three]) = (&space.broker, [1, 2, 3].map(|n| message("a", "t", n)));
    let mut first = Box::pin(broker.deliver(&one));
    let mut standing = Box::pin(broker.deliver(&two));
    still.block_on(async {
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut standing).is_pending());
    });
    other.block_on(async {
        let delivering = tokio::time::timeout(SECOND, broker.deliver(&three));
        delivering.await.expect("it went out by itself").unwrap();
        first.await.unwrap();
    });
    drop(still);
    // Its task has ended with its runtime, and with it the call.
    let ended = other.block_on(async { tokio::time::timeout(SECOND, standing).await });
    assert!(matches!(ended, Ok(Err(Error::MaybeApplied(_)))), "{ended:?}");
    other.block_on(space.delete());
}

#[tokio::test]
async fn what_arrived_of_pulls_that_broke_off_reaches_one_task_each() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    queue.pull().await.unwrap().unwrap();
    let mut body = message("a", "t", 0);
    body["fill"] = "x".repeat(100_000).into();
    for n in 0..21 {
        body["n"] = n.into();
        broker.deliver(&body).await.unwrap();
    }
    // The first goes alone; the others together, five messages a script.
    proxy.cut(3);
    let pulled = at_once(21, |_| {
        let pull = queue.pull();
        Box::pin(async move { pull.await })
    })
    .await;
    let mut numbers = Vec::new();
    let mut failed = 0;
    for pulled in pulled {
        match pulled {
            Ok(message) => numbers.push(message.unwrap()["n"].as_u64().unwrap()),
            Err(Error::MaybeApplied(_)) => failed += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((numbers, failed), ((0..6).collect(), 15));
    assert_eq!(queue.stats().await.unwrap().waiting, 10, "five were lost on their way");
}

#[tokio::test]
async fn one_who_asks_for_more_than_there_can_be_leaves_the_others_theirs() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 5).await;
    let (first, second, rest) =
        tokio::join!(queue.pull(), queue.pull(), queue.pull_many(usize::MAX));
    assert_eq!(first.unwrap().unwrap()["n"], 0);
    assert_eq!(second.unwrap().unwrap()["n"], 1);
    assert_eq!(rest.unwrap().len(), 3);
    space.end().await;
}

#[tokio::test]
async fn for_one_who_left_meanwhile_nothing_more_is_taken() {
    let (space, queue) = Space::with_queue().await;
    let mut body = message("a", "t", 0);
    body["fill"] = "x".repeat(900_000).into();
    for _ in 0..13 {
        space.broker.deliver(&body).await.unwrap();
    }
    // One goes alone, and the others together: four messages at a time.
    let mut pulls: FuturesUnordered<_> = (0..12).map(|_| queue.pull().into_future()).collect();
    assert!(poll_immediate(pulls.next()).await.is_none());
    let mut last = queue.pull().into_future();
    assert!(poll_immediate(&mut last).await.is_none());
    let mut done = 0;
    while done < 5 {
        pulls.next().await.unwrap().unwrap().unwrap();
        done += 1;
    }
    drop(last);
    while let Some(pulled) = pulls.next().await {
        pulled.unwrap().unwrap();
        done += 1;
    }
    assert_eq!((done, queue.stats().await.unwrap().waiting), (12, 1));
    queue.pull().await.unwrap().unwrap();
    space.end().await;
}
