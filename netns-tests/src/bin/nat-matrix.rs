//! Runs the matrix of NATs, or the part of it that variables name; `make nat-matrix` calls it. Fails if
//! it cannot be measured, or if a promise is not kept.

use std::process::ExitCode;

use netns_tests::nat_matrix::{self, Options, promise};

fn main() -> ExitCode {
    let options = Options::read(|name| std::env::var(name).ok());
    match options.and_then(|options| nat_matrix::run(&options, &mut std::io::stdout())) {
        Ok(rows) => {
            let broken = promise::broken(&rows);
            for verdict in &broken {
                let case = verdict.case;
                let (router, ip) = (case.router.word(), case.ip.word());
                eprintln!("{} {router} {ip}: {verdict}", case.pair);
            }
            if broken.is_empty() {
                ExitCode::SUCCESS
            } else {
                eprintln!(
                    "\nnot all is as promised: see the cases above, and the faults of their runs"
                );
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("\nthe matrix of NATs was not measured: {error:?}");
            ExitCode::FAILURE
        }
    }
}
