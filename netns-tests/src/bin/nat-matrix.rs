//! Runs the matrix of NATs, or the part of it that variables name; `make nat-matrix` calls it.

use std::process::ExitCode;

use netns_tests::nat_matrix::{self, Options};

fn main() -> ExitCode {
    let options = Options::read(|name| std::env::var(name).ok());
    match options.and_then(|options| nat_matrix::run(&options, &mut std::io::stdout())) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe matrix of NATs was not measured: {error:?}");
            ExitCode::FAILURE
        }
    }
}
