use crate::support::{program, text};

/// The commands, as the program itself lists them.
fn commands() -> Vec<String> {
    let help = text(&program().arg("--help").output().unwrap());
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    // What goes on in a second line is indented further.
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
fn there_are_completions_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = program().args(["completions", shell]).output().unwrap();
        assert!(output.status.success());
        let script = text(&output);
        assert!(commands().iter().all(|command| script.contains(command)), "{shell}");
    }
}

#[test]
fn the_manual_has_all_commands() {
    let manual = text(&program().arg("man").output().unwrap());
    let commands = commands();
    assert!(commands.len() > 25, "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        assert!(manual.contains(&format!(".TH fairlane-{command} 1")), "{command}");
    }
}

#[test]
fn the_help_says_exit_codes_and_examples() {
    let help = text(&program().arg("--help").output().unwrap());
    assert!(help.contains("Exit codes:") && help.contains("Examples:"), "{help}");
}
