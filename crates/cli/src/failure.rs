//! What can go wrong, as one line on standard error and an exit code.

use std::{error::Error as StdError, process::ExitCode};

use fairlane::{Error, Invalid};

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1 refused, 2 usage, 3 no connection.
    code: u8,
    text: String,
}

impl Failure {
    /// What was asked for cannot be done; the text says what to do.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// What was asked for makes no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// Says it on standard error.
    pub(crate) fn report(self) -> ExitCode {
        let style = anstyle::AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{style}error{style:#}: {}", self.text);
        self.code.into()
    }
}

/// An error and what is behind it, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes =
        std::iter::successors(Some(error), |error: &&(dyn StdError + 'static)| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").replace('\n', " ")
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = chain(&error);
        let code = match error {
            Error::NotSent(_) | Error::MaybeApplied(_) => 3,
            Error::Invalid(
                Invalid::Url { .. } | Invalid::Name { .. } | Invalid::OutOfRange { .. },
            ) => 2,
            _ => 1,
        };
        Self { code, text }
    }
}
