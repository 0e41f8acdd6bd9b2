use fairlane::testing::TestCluster;
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
    for (namespace, partitions) in [("whole", None), ("divided", Some("4"))] {
        let run = |args: &[&str]| run(&url, &[args, &["--namespace", namespace]].concat());
        // It is said once; later commands find out.
        match partitions {
            None => run(&["register", "mails", "^mail:"]),
            Some(number) => run(&["register", "mails", "^mail:", "--partitions", number]),
        };
        for facet in ["a", "b", "c", "d"] {
            run(&["deliver", "{}", "--facet", facet, "--topic", "mail:hello"]);
        }
        assert_eq!(run(&["queues"])[0]["queue"], "mails");
        assert_eq!(run(&["stats", "mails"])[0]["waiting"], 4);
        assert_eq!(run(&["pull", "mails", "-n", "4"]).len(), 4);
        assert_eq!(run(&["stats", "mails"])[0]["waiting"], 0);
        run(&["doctor", "mails"]);
    }
    let refused = program()
        .args(["queues", "--partitions", "5", "--namespace", "divided", "--redis", &url])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        error(&refused).contains("the namespace has 4 partitions, not 5"),
        "{}",
        error(&refused)
    );
}
