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
