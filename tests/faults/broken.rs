//! The battery with scripts that are broken, so that it is known to find what it looks for.

use fairlane::{Broker, BrokerBuilder};
use tokio::time::sleep;

use crate::{
    check::{Excused, Verdict},
    load::{Load, SECOND},
    support::Server,
};

/// Runs the load, with nothing else failing, on brokers whose scripts have a line in place of
/// another.
async fn run(
    scripts: &'static [&'static str],
    line: &'static str,
    broken: &'static str,
) -> Verdict {
    let server = Server::start(&[]).await;
    let url = server.url();
    let load = Load::on(move || <Broker>::builder().redis(url.clone())).await;
    let load = load.changed(move |builder| {
        let change = |builder: BrokerBuilder, name: &&'static str| {
            builder.script(name, |text| {
                assert_eq!(text.matches(line).count(), 1, "the line is in {name}");
                text.replace(line, broken)
            })
        };
        scripts.iter().fold(builder, change)
    });
    let told = load.during(async |_| sleep(3 * SECOND).await).await;
    told.verdict(&Excused::default())
}

#[track_caller]
fn finds(verdict: &Verdict, breach: [&str; 2]) {
    let is = |said: &&String| breach.iter().all(|part| said.contains(part));
    let found = verdict.breaches.iter().filter(is).count();
    assert!(found > 0, "the battery does not find it: {verdict:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_the_battery_finds_nothing() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let load = Load::on(move || <Broker>::builder().redis(url.clone())).await;
    let told = load.during(async |_| sleep(3 * SECOND).await).await;
    let verdict = told.holds("none", &Excused::default());
    assert!(verdict.stall < 2 * SECOND, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_without_the_check_of_its_token_is_found() {
    // It acks the message, whoever has leased it now.
    let line = r#"facet = redis.call("HGET", q.lease .. lease, id)
      end"#;
    let broken = r#"facet = redis.call("HGET", q.lease .. lease, id)
      end
      for _, other in ipairs(facet and {} or redis.call("ZRANGE", q.timers, 0, -1)) do
        local found = other:find("^%d") and redis.call("HGET", q.lease .. other, id)
        if found then
          facet, lease = found, other
        end
      end"#;
    let verdict = run(&["ack"], line, broken).await;
    finds(&verdict, ["was settled under lease", "after it was leased as"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_is_not_carried_out_is_found() {
    let verdict = run(&["ack"], "gone(q, lease, id, facet)\n  q.acked", "q.acked").await;
    finds(&verdict, ["was acked under lease", "and leased again as"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_drops_the_message_is_found() {
    let all = &["lease", "nack", "fail", "hold_facet"];
    let line = r#"failed = put(q, "returned", facet, text)"#;
    let verdict = run(all, line, "failed = nil").await;
    finds(&verdict, ["was delivered", "is lost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_ends_too_soon_is_found() {
    let line = r#"redis.call("ZADD", q.timers, now + length, lease)"#;
    let soon = r#"redis.call("ZADD", q.timers, now + length - 500, lease)"#;
    let verdict = run(&["lease"], line, soon).await;
    finds(&verdict, ["was leased as", "ms before lease"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_goes_to_the_wrong_end_of_its_list_is_found() {
    let verdict =
        run(&["deliver"], r#"length = redis.call("RPUSH""#, r#"length = redis.call("LPUSH""#).await;
    finds(&verdict, ["of facet", "was served before message"]);
}
