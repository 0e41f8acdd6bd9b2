//! Asks before something is dropped.

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::{failure::Failure, shown::printable};

/// Whether to ask.
#[derive(Debug, Args)]
pub(crate) struct Confirm {
    /// Does not ask first
    #[arg(long, short)]
    yes: bool,
}

impl Confirm {
    /// Whether there is somebody to ask, if that has to be. A script that forgot `--yes` shall hear
    /// of it before anything else is done.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.yes || io::stdin().is_terminal() {
            return Ok(());
        }
        Err(Failure::usage("this drops messages, and there is no terminal to ask on: say --yes"))
    }

    /// Says what will be dropped, and goes on when that is what is wanted. The question is no
    /// output: it stands on standard error.
    pub(crate) fn ask(&self, what: &str) -> Result<(), Failure> {
        self.check()?;
        if self.yes {
            return Ok(());
        }
        let mut terminal = anstream::stderr();
        write!(terminal, "{} Go on? [y/N] ", printable(what.as_bytes()))?;
        terminal.flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::refused("nothing was dropped")),
        }
    }
}
