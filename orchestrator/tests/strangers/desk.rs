//! The socket at which root's machine makes tokens.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use orchestrator::desk;

use super::site::Site;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desk_answers_questions_only() {
    let site = Site::start().await;
    let desk_of = site.root.desk.clone();
    let folder = site.folder.path().join("desk");
    std::fs::create_dir(&folder).unwrap();
    let invite =
        |_: &desk::Invite| -> anyhow::Result<String> { anyhow::bail!("nobody is invited") };
    let _socket = desk::serve(&folder, desk_of, invite).unwrap();
    let before = site.shown().await;
    for (bytes, text) in [
        (&b"{\n"[..], "not a question: "),
        (b"\"Invite\"\n", "not a question: unknown variant"),
        (b"{\"revoke\": \"ffff\"}\n", "there is no join token ffff"),
        (
            b"{\"invite\": {\"role\": \"worker\", \"cluster\": null, \"uses\": 1, \"life_s\": 1, \"more\": 1}}\n",
            "not a question: unknown field `more`",
        ),
        (b"\xff\xfe\n", ""),
    ] {
        let path = folder.join("desk.sock");
        let bytes = bytes.to_vec();
        let told = tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(&bytes).unwrap();
            let mut told = String::new();
            stream.read_to_string(&mut told).unwrap();
            told
        });
        let told = told.await.unwrap();
        assert!(told.contains(text) && told.is_empty() == text.is_empty(), "{told}");
        site.honest_traffic_flows().await;
        assert_eq!(site.shown().await, before);
    }
}
