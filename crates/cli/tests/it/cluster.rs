use fairlane::{Broker, testing::TestCluster};
use serde_json::Value;

use crate::support::{error, program, text};

/// What a command prints, a line of JSON each.
fn run(url: &str, args: &[&str]) -> Vec<Value> {
    let mut program = program();
    let output = program.args(args).args(["--redis", url, "--json"]).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", error(&output));
    text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_work_on_a_cluster_and_over_the_partitions_of_a_namespace() {
    let cluster = TestCluster::start(3).await.unwrap();
    let url = cluster.url();
    let divided = <Broker>::builder().redis(&url).namespace("divided").partitions(4);
    divided.connect().await.unwrap();
    for namespace in ["whole", "divided"] {
        let run = |args: &[&str]| run(&url, &[args, &["--namespace", namespace]].concat());
        run(&["register", "mails", "^mail:"]);
        for facet in ["a", "b", "c", "d"] {
            run(&["deliver", "{}", "--facet", facet, "--topic", "mail:hello"]);
        }
        assert_eq!(run(&["queues"])[0]["queue"], "mails");
        assert_eq!(run(&["stats", "mails"])[0]["waiting"], 4);
        assert_eq!(run(&["pull", "mails", "-n", "4"]).len(), 4);
        assert_eq!(run(&["stats", "mails"])[0]["waiting"], 0);
        run(&["doctor", "mails"]);
    }
}
