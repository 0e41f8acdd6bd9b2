//! What the tests of this crate need and users do not see.

use std::{env, path::PathBuf};

/// The server program that an embedded server would run.
#[cfg(all(unix, feature = "embedded"))]
pub fn server_program() -> Option<PathBuf> {
    crate::embedded::find(
        env::var_os(crate::embedded::PROGRAM).as_deref(),
        env::var_os("PATH").as_deref(),
    )
}
