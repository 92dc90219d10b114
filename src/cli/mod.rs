//! The command line: one file per subcommand. Arguments in, calls, printing out; no mathematics.

use std::process::ExitCode;

/// Runs the program and says how it ended: 0 done, 1 the work failed, 2 the command line or a configuration is wrong.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
