//! Tests of where settings come from and what they may be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

struct Case {
    directory: tempfile::TempDir,
    sources: Sources,
}

impl Case {
    fn new() -> Case {
        Case { directory: tempfile::tempdir().unwrap(), sources: Sources::default() }
    }

    fn file(mut self, text: &str) -> Case {
        std::fs::write(self.path(), text).unwrap();
        self.sources.file = ConfigFile::Required(self.path());
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Case {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn set(mut self, key: &str, value: &str) -> Case {
        let flag = Flag { flag: "--set".to_owned(), key: key.to_owned(), value: value.to_owned() };
        self.sources.flags.push(flag);
        self
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("assent.toml")
    }

    fn load(&self) -> Loaded {
        load(&self.sources).unwrap()
    }

    fn error(&self) -> String {
        let path = self.path().display().to_string();
        load(&self.sources).unwrap_err().to_string().replace(&path, "FILE")
    }
}

#[test]
fn defaults_are_valid_and_are_what_the_documentation_says() {
    let loaded = load(&Sources::default()).unwrap();
    let settings = &loaded.settings;
    assert_eq!(*settings, Settings::default());
    assert_eq!(settings.server.listen, "127.0.0.1:7420".parse().unwrap());
    assert_eq!(settings.storage.data_dir, Path::new("/var/lib/assent"));
    assert_eq!(settings.storage.ballast, Size(16 << 20));
    assert_eq!(settings.limits.max_payload, Size(1 << 20));
    assert_eq!(settings.participants.retry_initial, Span(Duration::from_millis(100)));
    assert_eq!(settings.log.format, LogFormat::Pretty);
    assert_eq!(loaded.origin_of("log.format"), Some(&Origin::Default));
    assert_eq!(loaded.origin_of("log.nothing"), None);
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[limits]\nmax_branches = 10\nmax_active = 10\nmax_payload = \"10 KiB\"\n";
    let case = Case::new()
        .file(file)
        .variable("ASSENT_LIMITS__MAX_BRANCHES", "20")
        .variable("ASSENT_LIMITS__MAX_ACTIVE", "20")
        .set("limits.max_branches", "30");
    let loaded = case.load();
    let limits = &loaded.settings.limits;
    assert_eq!((limits.max_branches, limits.max_active, limits.max_payload), (30, 20, Size::from_kib(10)));
    assert_eq!(limits.default_timeout, Settings::default().limits.default_timeout);

    let origin = |key| loaded.origin_of(key).unwrap().to_string();
    assert_eq!(origin("limits.max_branches"), "flag --set");
    assert_eq!(origin("limits.max_active"), "environment ASSENT_LIMITS__MAX_ACTIVE");
    assert_eq!(origin("limits.max_payload"), format!("file {}", case.path().display()));
    assert_eq!(origin("limits.default_timeout"), "default");
}

#[test]
fn the_last_of_two_flags_wins() {
    let case = Case::new().set("limits.max_branches", "1").set("limits.max_branches", "2");
    assert_eq!(case.load().settings.limits.max_branches, 2);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    for (file, expected) in [
        (
            "[storage]\ndata_dri = \"/x\"",
            "unknown setting `storage.data_dri` (file FILE); did you mean `storage.data_dir`?",
        ),
        ("data_dir = \"/x\"", "unknown setting `data_dir` (file FILE); did you mean `storage.data_dir`?"),
        ("[sever]\nlisten = \"x\"", "unknown setting `sever` (file FILE)"),
        ("[server]\nzzzzzzzz = 1", "unknown setting `server.zzzzzzzz` (file FILE)"),
        (
            "[server]\nlisten.port = 1",
            "`server.listen` is { port = 1 } (file FILE); it must be an IP address and a port, such as 127.0.0.1:7420 or [::]:7420",
        ),
        ("server = 1", "`server` is 1 (file FILE); it must be a section: [server]"),
    ] {
        assert_eq!(Case::new().file(file).error(), expected);
    }
}

/// To look for the most similar one would take hours.
#[test]
fn an_unknown_key_that_is_very_long_is_refused_like_any_other() {
    let key = "x".repeat(1 << 20);
    assert_eq!(Case::new().set(&key, "1").error(), format!("unknown setting `{key}` (flag --set)"));
}

#[test]
fn unknown_variables_and_flags_are_refused_with_the_nearest_known_one() {
    for variable in ["ASSENT_STORAGE__DATA_DRI", "ASSENT_STORAGE_DATA_DIR", "ASSENT_DATA_DIR"] {
        let error = Case::new().variable(variable, "/x").error();
        let end = format!("(environment {variable}); did you mean `ASSENT_STORAGE__DATA_DIR`?");
        assert!(error.ends_with(&end), "{error}");
    }
    assert_eq!(
        Case::new().set("log.formt", "json").error(),
        "unknown setting `log.formt` (flag --set); did you mean `log.format`?"
    );
}

#[test]
fn variables_of_others_are_passed_over() {
    let case = Case::new()
        .variable("PATH", "/bin")
        .variable("ASSENT_SERVER", "http://elsewhere:1")
        .variable("ASSENT_CONFIG", "/x")
        .variable("ASSENT_PORT_7420_TCP_ADDR", "10.0.0.1")
        .variable("ASSENT_SERVICE_HOST", "10.0.0.1");
    assert_eq!(case.load().settings, Settings::default());
}

#[test]
fn values_outside_their_limits_are_refused_with_key_value_origin_and_limit() {
    for (key, value, limit) in [
        ("server.drain_timeout", "\"2h\"", "it must be from 0s to 1h"),
        ("storage.data_dir", "\"\"", "it must name a directory"),
        ("storage.retention", "\"500d\"", "it must be from 0s to 365d"),
        ("storage.retention_max", "10000001", "it must be from 0 to 10000000"),
        ("storage.ballast", "\"2 GiB\"", "it must be from 0 B to 1 GiB"),
        ("storage.min_free", "\"2 TiB\"", "it must be from 0 B to 1 TiB"),
        ("limits.max_payload", "\"1023 B\"", "it must be from 1 KiB to 16 MiB"),
        ("limits.max_payload", "\"17 MiB\"", "it must be from 1 KiB to 16 MiB"),
        ("limits.max_branches", "0", "it must be from 1 to 1024"),
        ("limits.max_branches", "1025", "it must be from 1 to 1024"),
        ("limits.max_active", "0", "it must be from 1 to 100000000"),
        ("limits.default_timeout", "\"0s\"", "it must be from 1ms to 7d"),
        ("limits.default_timeout", "\"2h\"", "it must be at most limits.max_timeout, which is 1h"),
        ("limits.max_timeout", "\"8d\"", "it must be from 1ms to 7d"),
        ("participants.call_timeout", "\"0s\"", "it must be from 1ms to 1h"),
        ("participants.retry_initial", "\"1m\"", "it must be at most participants.retry_max, which is 30s"),
        ("participants.retry_initial", "\"0ms\"", "it must be from 1ms to 1h"),
        ("participants.retry_max", "\"2h\"", "it must be from 1ms to 1h"),
        ("participants.max_in_flight", "0", "it must be from 1 to 65536"),
        ("participants.max_in_flight", "65537", "it must be from 1 to 65536"),
        ("participants.reservation_margin", "\"2h\"", "it must be from 0s to 1h"),
    ] {
        let (section, name) = key.split_once('.').unwrap();
        let error = Case::new().file(&format!("[{section}]\n{name} = {value}\n")).error();
        assert_eq!(error, format!("`{key}` is {value} (file FILE); {limit}"));

        let error = Case::new().set(key, value.trim_matches('"')).error();
        assert_eq!(error, format!("`{key}` is {value} (flag --set); {limit}"));
    }
}

#[test]
fn values_of_the_wrong_form_are_refused_with_key_value_origin_and_what_is_right() {
    for (key, text, value, right) in [
        ("server.listen", "localhost", "\"localhost\"", "127.0.0.1:7420"),
        ("server.drain_timeout", "30", "\"30\"", "30s"),
        ("server.drain_timeout", "0", "\"0\"", "30s"),
        ("storage.ballast", "much", "\"much\"", "1 MiB"),
        ("storage.ballast", "-1 MiB", "\"-1 MiB\"", "1 MiB"),
        ("limits.max_branches", "many", "\"many\"", "a whole number, such as 64"),
        ("limits.max_branches", "6.5", "\"6.5\"", "a whole number, such as 64"),
        ("limits.max_branches", "-1", "-1", "a whole number, such as 64"),
        ("participants.endpoints.shop/stock", "stock:7000", "\"stock:7000\"", "http://stock.internal:7000"),
        ("participants.endpoints.shop stock", "http://s:1", "\"http://s:1\"", "letters, digits"),
        ("participants.endpoints", "shop/stock", "\"shop/stock\"", "pairs"),
        ("participants.allowed_hosts", "a:1:2", "[\"a:1:2\"]", "host:port"),
        ("log.filter", "a=b=c", "\"a=b=c\"", "info"),
        ("log.filter", "", "\"\"", "info"),
        ("log.format", "xml", "\"xml\"", "`pretty` or `json`"),
    ] {
        let error = Case::new().set(key, text).error();
        assert!(error.starts_with(&format!("`{key}` is {value} (flag --set); ")), "{error}");
        assert!(error.contains(right), "{error} lacks {right}");
    }
    let error = Case::new().file("[server]\ndrain_timeout = 30").error();
    assert!(
        error.contains("`server.drain_timeout` is 30 (file FILE)") && error.contains("such as 250ms"),
        "{error}"
    );
}

#[test]
fn a_limit_is_checked_against_what_the_other_source_says() {
    let case =
        Case::new().file("[limits]\nmax_timeout = \"10s\"").variable("ASSENT_LIMITS__DEFAULT_TIMEOUT", "11s");
    assert_eq!(
        case.error(),
        "`limits.default_timeout` is \"11s\" (environment ASSENT_LIMITS__DEFAULT_TIMEOUT); \
         it must be at most limits.max_timeout, which is 10s"
    );
    let settings = case.set("limits.max_timeout", "12s").load().settings;
    assert_eq!(settings.limits.default_timeout, Span::from_secs(11));
}

#[test]
fn endpoints_of_all_sources_add_up_each_with_its_origin() {
    let case = Case::new()
        .file("[participants.endpoints]\n\"shop/stock\" = \"http://file:1\"\n\"a.b\" = \"http://file:2\"")
        .variable("ASSENT_PARTICIPANTS__ENDPOINTS", "shop/stock=http://env:1, shop/pay=http://ENV:2/")
        .set("participants.endpoints.c.d", "http://[::1]:3");
    let loaded = case.load();
    let endpoints: Vec<_> =
        loaded.settings.participants.endpoints.iter().map(|(name, at)| format!("{name} {at}")).collect();
    assert_eq!(
        endpoints,
        ["a.b http://file:2", "c.d http://[::1]:3", "shop/pay http://env:2", "shop/stock http://env:1"]
    );
    let origin =
        |name: &str| loaded.origin_of(&format!("participants.endpoints.{name}")).unwrap().to_string();
    assert_eq!(origin("shop/stock"), "environment ASSENT_PARTICIPANTS__ENDPOINTS");
    assert_eq!(origin("a.b"), format!("file {}", case.path().display()));
    assert_eq!(origin("c.d"), "flag --set");
}

#[test]
fn allowed_hosts_match_by_host_and_port() {
    let case = Case::new().variable("ASSENT_PARTICIPANTS__ALLOWED_HOSTS", "stock.internal, Pay:7000");
    let hosts = case.load().settings.participants.allowed_hosts;
    let allowed = |endpoint: &str| hosts.iter().any(|host| host.allows(&endpoint.parse().unwrap()));
    assert!(
        allowed("http://stock.internal:1")
            && allowed("http://STOCK.internal:2")
            && allowed("http://pay:7000")
    );
    assert!(
        !allowed("http://pay:7001")
            && !allowed("http://internal:1")
            && !allowed("http://stock.internal.evil:1")
    );
}

#[test]
fn endpoints_are_nothing_but_http_host_and_port() {
    for text in [
        "",
        "stock:1",
        "https://stock:1",
        "http://stock",
        "http://:1",
        "http://stock:99999",
        "http://u@stock:1",
        "http://stock:1/path",
        "http://stock:1/?q",
        "http://stock:01",
    ] {
        assert!(text.parse::<Endpoint>().is_err(), "{text}");
    }
}

#[test]
fn a_named_file_must_be_there_and_the_usual_one_need_not() {
    let path = PathBuf::from("/nonexistent/assent.toml");
    let sources = |file| Sources { file, ..Sources::default() };
    let error = load(&sources(ConfigFile::Required(path.clone()))).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration file /nonexistent/assent.toml: "), "{error}");
    assert!(load(&sources(ConfigFile::Optional(path))).is_ok());
}

#[test]
fn broken_toml_is_refused_with_file_and_line() {
    let error = Case::new().file("[server]\nlisten = \n").error();
    assert!(error.starts_with("the configuration file FILE is not valid TOML: "), "{error}");
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn the_commented_file_changes_nothing_and_uncommented_it_names_every_key() {
    let commented = commented_defaults();
    let loaded = Case::new().file(&commented).load();
    assert_eq!(loaded.settings, Settings::default());
    assert!(loaded.origins.values().all(|origin| *origin == Origin::Default));

    let uncommented: Vec<&str> = commented
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(line)
        })
        .collect();
    let case = Case::new().file(&uncommented.join("\n"));
    let loaded = case.load();
    assert_eq!(loaded.settings, Settings::default());
    assert!(loaded.origins.values().all(|origin| *origin == Origin::File(case.path())));
}

#[test]
fn units_are_written_exactly_and_read_back() {
    for text in ["0s", "1ms", "1s 500ms", "90d 1h 30m", "1us 1ns"] {
        assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
    }
    for text in ["0 B", "1 B", "1536 B", "1 KiB", "1025 MiB", "3 TiB"] {
        assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
    }
}

#[test]
fn what_is_shown_loads_as_the_same_settings() {
    let case = Case::new()
        .set("participants.endpoints.shop/stock", "http://stock:1")
        .set("participants.allowed_hosts", "a,b:2")
        .set("storage.data_dir", "/a \"b\"")
        .set("server.drain_timeout", "90s")
        .set("limits.max_payload", "1536 B");
    let loaded = case.load();
    for text in [show(&loaded), show_with_origins(&loaded)] {
        assert_eq!(Case::new().file(&text).load().settings, loaded.settings, "{text}");
    }
    let with_origins = show_with_origins(&loaded);
    assert!(with_origins.contains("drain_timeout = \"1m 30s\"  # flag --set\n"), "{with_origins}");
    assert!(with_origins.contains("listen = \"127.0.0.1:7420\"  # default\n"), "{with_origins}");
    assert!(with_origins.contains("max_payload = \"1536 B\"  # flag --set\n"), "{with_origins}");
}
