//! `cargo ci fix`: mends what the tools can mend by themselves.

use std::process::ExitCode;

use crate::invocation::{Invocation, exit_code};

/// Formats the code, then applies clippy's own suggestions; stops at the first command that fails.
pub(crate) fn run() -> Result<ExitCode, String> {
    let clippy = "clippy --fix --allow-dirty --allow-staged --workspace --all-targets --all-features";
    for line in ["fmt --all", clippy, "fmt --all"] {
        let invocation = Invocation::cargo(line);
        eprintln!("{invocation}");
        let status = invocation.run_attached()?;
        if !status.success() {
            return Ok(exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}
