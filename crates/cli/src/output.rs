//! Tables for people, and one JSON object a line for programs.

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// Prints one JSON object a line, with names that stay
    #[arg(long, global = true)]
    pub(crate) json: bool,
}
