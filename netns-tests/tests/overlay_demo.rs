//! The demo that `make demo-overlay` shows, run as a test.

#[test]
fn the_demo_runs_to_its_end() {
    let mut printed = Vec::new();
    let result = netns_tests::overlay_demo::run(&mut printed);
    println!("{}", String::from_utf8_lossy(&printed));
    if let Err(error) = result {
        panic!("demo failed: {error:?}");
    }
}
