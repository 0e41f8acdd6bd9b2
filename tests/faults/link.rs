//! A link to Redis that fails.

use std::time::Duration;

use fairlane::Broker;
use tokio::time::{Instant, sleep};

use crate::{
    check::Excused,
    load::{Load, SECOND, long},
    support::{Proxy, Server},
};

const MS: Duration = Duration::from_millis(1);

/// Lets the link fail and recover, again and again, and checks what comes of it.
async fn check(fault: &str, fail: impl AsyncFn(&Proxy, u32)) {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let load = Load::on(move || <Broker>::builder().redis(url.clone())).await;
    let told = load.during(async |_| {
        let end = Instant::now() + long();
        for round in 0.. {
            if Instant::now() > end {
                break;
            }
            fail(&proxy, round).await;
        }
    });
    told.await.holds(fault, &Excused::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_stalls_loses_nothing() {
    check("a link that stalls", async |proxy, round| {
        // Shorter than the deadline, and longer than that and the leases.
        let time = if round % 2 == 0 { SECOND * 3 / 10 } else { SECOND * 3 / 2 };
        proxy.stall(true);
        sleep(time).await;
        proxy.stall(false);
        sleep(SECOND / 5).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_loses_answers_loses_no_message() {
    check("a link that loses all answers", async |proxy, _| {
        proxy.silence();
        sleep(SECOND * 5 / 4).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_loses_nothing() {
    check("a link that is slow: 50 ms", async |proxy, _| {
        proxy.delay(50 * MS);
        sleep(SECOND).await;
        proxy.delay(Duration::ZERO);
        sleep(SECOND / 5).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut_in_the_middle_of_a_message_loses_nothing() {
    check("a link that is cut after n bytes", async |proxy, round| {
        // From the first bytes of a command to some hundred commands.
        proxy.cut_after(u64::from(round * 7919 % 16384));
        sleep(50 * MS).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_reset_loses_nothing() {
    check("a link that is reset", async |proxy, _| {
        proxy.reset();
        sleep(100 * MS).await;
    })
    .await;
}
