//! A Redis that is killed and started again.

use tokio::time::{Instant, sleep};

use crate::{
    check::Excused,
    load::{Load, SECOND, long},
    support::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_killed_loses_nothing_that_it_has_synced() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let url = server.url();
    let load = Load::on(move || <fairlane::Broker>::builder().redis(url.clone())).await;
    let told = load.during(async |_| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            sleep(SECOND / 2).await;
            server.kill();
            sleep(SECOND / 5).await;
            server.launch();
            server.ready().await;
        }
    });
    told.await.holds("kill -9 of Redis, appendfsync always", &Excused::default());
}
