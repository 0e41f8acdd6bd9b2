//! What can go wrong, as one line on standard error and an exit code.

use std::{
    error::Error as StdError,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use clap::error::ErrorKind;
use fairlane::{Error, Invalid, Refusal};

use crate::shown::printable;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1 refused, 2 usage, 3 no connection.
    code: u8,
    /// Nothing where there is nobody to tell: who read the output has gone.
    text: Option<String>,
}

impl Failure {
    /// What was asked for cannot be done; the text says what to do.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self { code: 1, text: Some(text.into()) }
    }

    /// What was asked for makes no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: Some(text.into()) }
    }

    /// Says where it was.
    pub(crate) fn at(self, place: impl Display) -> Self {
        Self { text: self.text.map(|text| format!("{place}: {text}")), ..self }
    }

    /// Says how things stand after it, and what to do.
    pub(crate) fn then(self, what: impl Display) -> Self {
        Self { text: self.text.map(|text| format!("{text}; {what}")), ..self }
    }

    /// Says it on standard error, in one line whatever names and bodies are in it.
    pub(crate) fn report(self) -> ExitCode {
        if let Some(text) = self.text {
            let style = anstyle::AnsiColor::Red.on_default().bold();
            let text = printable(one_line(&text).as_bytes());
            // Who has closed standard error does not want to know.
            let _ = writeln!(anstream::stderr(), "{style}error{style:#}: {text}");
        }
        self.code.into()
    }
}

/// What clap says where there is no command to run: a help that was asked for, or in one line why what
/// was asked for makes no sense.
pub(crate) fn unread(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print(); // Or nobody reads it.
        return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
    }
    let text = error.render().to_string();
    let parts = text.split("\n\n").take_while(|part| {
        !part.starts_with("Usage:") && !part.starts_with("For more information")
    });
    let said = parts.map(one_line).collect::<Vec<_>>().join("; ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    Failure::usage(said).then("--help tells more").report()
}

/// An error and what is behind it, in one line. Wrappers often repeat what they wrap: once is enough.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes =
        std::iter::successors(Some(error), |error: &&(dyn StdError + 'static)| (*error).source());
    let mut said = String::new();
    for text in causes.map(|cause| one_line(&cause.to_string())) {
        if !said.contains(&text) {
            said += if said.is_empty() { "" } else { ": " };
            said += &text;
        }
    }
    said
}

/// Text that may have lines, without their ends and what they are indented by.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What to do about an error, where its own text does not say it in the words of this program.
fn advice(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::NotSent(_) => {
            "name another Redis with --redis or FAIRLANE_REDIS, or start one with `fairlane redis DIR`"
        }
        Error::MaybeApplied(_) => "look with `fairlane stats` before you try it again",
        Error::Full => "pull, lease and ack still work: drain it, or raise its maxmemory",
        Error::Refused { why: Refusal::IntakePaused, .. } => {
            "`fairlane resume QUEUE --intake`, with --facet for one alone, takes it again"
        }
        Error::Refused { .. } => "wait until it has drained, or raise it with `fairlane limit`",
        Error::NoSuchQueue(_) => "`fairlane queues` lists those that are there",
        Error::NoSuchMessage(_) => "it may be leased, settled, or of another facet",
        Error::LeaseLost(_) => "the message came back, or was settled",
        Error::Denied(_) => "give the URL a user and a password that may",
        Error::WrongType(_) => "use another --namespace",
        _ => return None,
    })
}

fn code_of(error: &Error) -> u8 {
    match error {
        Error::NotSent(_) | Error::MaybeApplied(_) => 3,
        Error::Interrupted { source, .. }
        | Error::PullInterrupted { source, .. }
        | Error::Partly { source, .. } => code_of(source),
        Error::Invalid(
            Invalid::Url { .. }
            | Invalid::Tls { .. }
            | Invalid::Name { .. }
            | Invalid::OutOfRange { .. }
            | Invalid::Pattern { .. }
            | Invalid::NoSuchQueue { .. },
        ) => 2,
        _ => 1,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = match &error {
            Error::Invalid(Invalid::Missing { field }) => format!(
                "the message has no `{field}`: give it that field, a string or a number, or say --{field}"
            ),
            Error::Invalid(error @ Invalid::Pattern { source }) => {
                // What is behind the place in the pattern, which it takes lines to show.
                let said = source.to_string();
                let why = said.rsplit_once("error: ").map_or(&*said, |(_, why)| why);
                format!("{error}: {why}")
            }
            error => chain(error),
        };
        let text = match advice(&error) {
            Some(advice) => format!("{text}; {advice}"),
            None => text,
        };
        Self { code: code_of(&error), text: Some(text) }
    }
}

impl From<io::Error> for Failure {
    /// What is read and written here is standard input and output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { code: 0, text: None },
            _ => Self::refused(format!("standard input or output failed: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Said(&'static str, Option<Box<Said>>);

    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Said {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&**self.1.as_ref()?)
        }
    }

    #[test]
    fn what_is_repeated_in_a_chain_of_causes_is_said_once() {
        let cause = Said("refused", Some(Box::new(Said("refused", None))));
        let error = Said("no connection", Some(Box::new(cause)));
        assert_eq!(chain(&error), "no connection: refused");
    }
}
