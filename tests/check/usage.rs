//! The command line of the kit.

use tokio::net::TcpListener;

use crate::kit::check;

const WHAT: [&str; 4] = ["--protocol", "2pc", "--payload", "1"];

#[tokio::test]
async fn help_says_what_it_does_to_the_data_and_how_it_exits() {
    let said = check(&["--help"]).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    let text = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in ["--payload-refused", "--observe", "ASSENT_SERVER", "works on the real data", "else with 1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_says_what_would_be_right() {
    for (arguments, expected) in [
        (&["shop/stock"][..], "--listen is needed"),
        (&["shop/stock", "--listen", "127.0.0.1:0", "--name", "x"], "--name is for a participant"),
        (&["http://127.0.0.1"], "an address such as"),
        (&["https://127.0.0.1:1"], "an address such as"),
        (&["no name"], "character"),
        (&["http://127.0.0.1:1", "--listen", "here"], "--listen"),
        (&["http://127.0.0.1:1", "--payload-refused", "-"], "not standard input"),
    ] {
        let said = check(&[arguments, &WHAT].concat()).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{arguments:?}: {said:?}");
        assert!(said.stderr.contains(expected), "{arguments:?}: {said:?}");
    }
    for arguments in
        [&["http://127.0.0.1:1", "--payload", "1"][..], &["http://127.0.0.1:1", "--protocol", "2pc"]]
    {
        assert_eq!(check(arguments).await.code, 2, "{arguments:?}");
    }
}

#[tokio::test]
async fn where_nobody_serves_it_exits_with_6_and_a_hint() {
    let url = format!("http://127.0.0.1:{}", crate::free_port());
    let said = check(&[&[url.as_str()], &WHAT[..]].concat()).await;
    assert_eq!((said.code, said.stdout.as_str()), (6, ""), "{said:?}");
    assert!(said.stderr.starts_with(&format!("error: cannot reach {url}: ")), "{said:?}");
    assert!(said.stderr.contains("\nhint: "), "{said:?}");
}

#[tokio::test]
async fn where_nobody_opens_a_session_it_exits_with_6_in_time() {
    let arguments = ["shop/stock", "--listen", "127.0.0.1:0", "--wait", "100ms"];
    let said = check(&[&arguments[..], &WHAT].concat()).await;
    assert_eq!((said.code, said.stdout.as_str()), (6, ""), "{said:?}");
    assert!(said.stderr.contains("waiting for the session of shop/stock"), "{said:?}");
    assert!(said.stderr.contains("error: shop/stock opened no session at http://127.0.0.1:"), "{said:?}");
    assert!(said.stderr.contains("within 100ms") && said.stderr.contains("\nhint: "), "{said:?}");
}

#[tokio::test]
async fn a_session_under_another_name_is_turned_away_and_named() {
    let listen = format!("127.0.0.1:{}", crate::free_port());
    let other = crate::sdk::with_goods("shop/other");
    let _other = other.connect(format!("http://{listen}")).await.unwrap();
    let arguments = ["shop/stock", "--listen", &listen, "--wait", "5s"];
    let said = check(&[&arguments[..], &WHAT].concat()).await;
    assert_eq!(said.code, 6, "{said:?}");
    assert!(said.stderr.contains(r#"one came whose name is "shop/other""#), "{said:?}");
}

#[tokio::test]
async fn an_address_in_use_and_a_command_that_ends_are_errors() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = check(&[&["shop/stock", "--listen", &address], &WHAT[..]].concat()).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains(&format!("cannot listen on {address}")), "{said:?}");

    let arguments = ["shop/stock", "--listen", "127.0.0.1:0", "--run", "exit 7"];
    let said = check(&[&arguments[..], &WHAT].concat()).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains(r#""exit 7" ended (exit status: 7) before the participant was there"#),
        "{said:?}"
    );
}
