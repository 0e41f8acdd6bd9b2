use crate::support::{Terminal, piped, program, text};

#[test]
fn the_demo_needs_no_redis_and_shows_how_long_each_tenant_waited() {
    let mut terminal = Terminal::new();
    let mut demo = program();
    demo.args(["demo", "--redis", "redis://127.0.0.1:1"]);
    let output = piped(demo, b"");
    terminal.write_down(&output);
    let mut demo = program();
    demo.args(["demo", "--json"]);
    let output = piped(demo, b"");
    terminal.write_down(&output);
    let of: Vec<serde_json::Value> =
        text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(of.len(), 10);
    terminal.is_as_before("demo");
}
