//! A Redis that is there and does not do what it is asked to.

use tokio::time::{Instant, sleep};

use crate::{
    check::Excused,
    load::{Load, SECOND, long},
    support::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_are_flushed_and_clients_that_are_killed_or_paused_lose_nothing() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let load = Load::on(move || <fairlane::Broker>::builder().redis(url.clone())).await;
    let told = load.during(async |_| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            server.run::<()>(&["SCRIPT", "FLUSH"]).await;
            sleep(SECOND / 10).await;
            let clients = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
            server.run::<()>(&clients).await;
            sleep(SECOND / 10).await;
            server.run::<()>(&["CLIENT", "PAUSE", "200", "ALL"]).await;
            sleep(SECOND / 4).await;
            server.run::<()>(&["CLIENT", "PAUSE", "200", "WRITE"]).await;
            server.run::<()>(&clients).await;
            sleep(SECOND / 4).await;
        }
    });
    told.await.holds("SCRIPT FLUSH, CLIENT KILL, CLIENT PAUSE", &Excused::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_for_a_while_loses_nothing() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]).await;
    let url = server.url();
    let load = Load::on(move || <fairlane::Broker>::builder().redis(url.clone())).await;
    let told = load.during(async |_| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
            sleep(SECOND / 2).await;
            server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
            sleep(SECOND / 2).await;
        }
    });
    told.await.holds("a full maxmemory and back", &Excused::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_somebody_else_that_does_not_end_loses_nothing() {
    let server = Server::start(&["--lua-time-limit", "100"]).await;
    let url = server.url();
    let load = Load::on(move || <fairlane::Broker>::builder().redis(url.clone())).await;
    let connect = async || server.client().get_multiplexed_async_connection().await.unwrap();
    let (mut somebody, mut other) = (connect().await, connect().await);
    let told = load.during(async |_| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            let endless = async {
                let mut eval = redis::cmd("EVAL");
                let killed = eval.arg("while true do end").arg(0).exec_async(&mut somebody).await;
                assert!(killed.is_err());
            };
            let kill = async {
                sleep(SECOND * 2 / 5).await;
                redis::cmd("SCRIPT").arg("KILL").exec_async(&mut other).await.unwrap();
            };
            tokio::join!(endless, kill);
            sleep(SECOND / 5).await;
        }
    });
    told.await.holds("BUSY from somebody else's script", &Excused::default());
}
