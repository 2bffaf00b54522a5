//! Runs the overlay's demo and prints its evidence; `make demo-overlay` calls it.

use std::process::ExitCode;

fn main() -> ExitCode {
    match netns_tests::overlay_demo::run(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\ndemo failed: {error:?}");
            ExitCode::FAILURE
        }
    }
}
