//! `fairlane completions` and `man`

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{Cli, failure::Failure, output::Output};

/// Prints the completions of this program for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fairlane completions bash > ~/.local/share/bash-completion/completions/fairlane")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "fairlane", &mut script);
        output.write(&String::from_utf8_lossy(&script))
    }
}

/// Prints the manual of this program and of all its commands
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fairlane man | man -l -")]
pub(crate) struct Manual {}

impl Manual {
    pub(crate) fn run(self, output: &Output) -> Result<(), Failure> {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let mut page = Vec::new();
        pages(command, &mut page)?;
        output.write(&String::from_utf8_lossy(&page))
    }
}

/// The page of a command, and those of the ones below it.
fn pages(command: Command, page: &mut Vec<u8>) -> Result<(), Failure> {
    let below: Vec<_> = command.get_subcommands().cloned().collect();
    Man::new(command).render(page)?;
    below.into_iter().try_for_each(|command| pages(command, page))
}
