//! Turns the `.proto` files into Rust, with a parser in Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(
        [
            "proto/relay.proto",
            "proto/control.proto",
            "proto/session.proto",
            "proto/join.proto",
            "proto/statement.proto",
        ],
        ["proto"],
    )?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
