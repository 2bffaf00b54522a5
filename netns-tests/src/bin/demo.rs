//! Runs the whole demo and prints its evidence; `make demo` calls it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match netns_tests::demo::run(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo failed: {error:?}");
            ExitCode::FAILURE
        }
    }
}
