//! What settings may say, and what is told of those that are wrong.

use super::*;

fn load(flags: &Flags, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::load(flags, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

#[test]
fn flags_win_over_the_environment() {
    let flags = Flags { cores: Some("3".into()), ..Flags::default() };
    let environment = [
        ("EPICSERVER_CORES", "2"),
        ("EPICSERVER_WAIT", "spin"),
        ("EPICSERVER_THREADS_TRANSPORT", "inline"),
        ("PATH", "x"),
    ];
    let settings = load(&flags, &environment).expect("all is right");
    assert_eq!((settings.cores, settings.wait), (Some(3), Wait::Spin));
    assert_eq!(settings.transport_threads, TransportThreads::Inline);
}

/// Who replays a seed of a simulated test has them set, and starts programs in the same shell.
#[test]
fn what_the_simulator_reads_is_no_setting() {
    let environment =
        [("EPICSERVER_SIM_SEED", "7"), ("EPICSERVER_SIM_TAPE", "1=0"), ("EPICSERVER_CORES", "2")];
    assert_eq!(load(&Flags::default(), &environment).expect("all is right").cores, Some(2));
    let close = load(&Flags::default(), &[("EPICSERVER_SIMPLE", "1")]);
    assert!(close.is_err_and(|error| error.to_string().contains("EPICSERVER_SIMPLE")));
}

#[test]
fn all_problems_are_told_at_once_with_what_is_allowed() {
    let (wait, peers, threads) = (Some("sleep".into()), Some("here".into()), Some("many".into()));
    let flags = Flags { wait, peers, threads, ..Flags::default() };
    let error =
        load(&flags, &[("EPICSERVER_COLOUR", "red"), ("EPICSERVER_CORES", "0")]).expect_err("five problems");
    let text = error.to_string();
    for part in [
        "EPICSERVER_COLOUR: there is no such setting; there are cores,",
        "1 to 255",
        "\"spin\"",
        "flag --threads: threads.transport = \"many\" is not known",
        "no address",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn state_is_kept_beside_the_program_unless_others_keep_it() {
    let usual = Settings::default().data_folder().expect("a folder");
    assert!(usual.starts_with(".epicserver") && usual.file_name().is_some(), "{usual:?}");
    let seeded = load(&Flags { seed: Some("127.0.0.1:7700".into()), ..Flags::default() }, &[]);
    assert_eq!(seeded.expect("all is right").data_folder(), None);
    let none = load(&Flags::default(), &[("EPICSERVER_DATA_DIR", "none")]);
    assert_eq!(none.expect("all is right").data_folder(), None);
    assert_eq!(Settings::in_folder("here".as_ref()).data_folder(), Some("here".into()));
}

#[test]
fn data_is_kept_here_or_elsewhere_and_not_both() {
    let (seed, data_dir) = (Some("127.0.0.1:7700".into()), Some("here".into()));
    let refused = load(&Flags { seed, data_dir, ..Flags::default() }, &[]);
    assert!(refused.is_err_and(|error| error.to_string().contains("secret_file")));
}

/// It kept nothing, and did not say so.
#[test]
fn listed_peers_keep_their_state_in_memory() {
    let flags = |data_dir: Option<&str>| Flags {
        peers: Some("127.0.0.1:1".into()),
        listen: Some("127.0.0.1:2".into()),
        secret_file: Some("secret".into()),
        data_dir: data_dir.map(str::to_owned),
        ..Flags::default()
    };
    let refused = load(&flags(Some("here")), &[]).expect_err("it would not be kept").to_string();
    assert!(refused.contains("peers") && refused.contains("data_dir = \"none\""), "{refused}");
    for data_dir in [None, Some("none")] {
        assert_eq!(load(&flags(data_dir), &[]).expect("all is right").data_folder(), None);
    }
}

#[test]
fn peers_need_an_address_and_a_secret() {
    let flags = Flags { peers: Some("127.0.0.1:1,127.0.0.1:2".into()), ..Flags::default() };
    let error = load(&flags, &[]).expect_err("two problems");
    assert_eq!(error.0.len(), 2, "{error}");
}

#[test]
fn a_file_is_read_and_its_mistakes_are_named() {
    let dir = std::env::temp_dir().join(format!("epicserver-settings-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary folder");
    let path = dir.join("settings.toml");
    let flags = Flags { config: Some(path.clone()), ..Flags::default() };
    std::fs::write(&path, "cores = 2\nwait = \"park\"\n").expect("written");
    assert_eq!(load(&flags, &[]).expect("right").cores, Some(2));
    for text in ["[threads]\ntransport = \"dedicated\"\n", "threads.transport = \"dedicated\"\n"] {
        std::fs::write(&path, text).expect("written");
        let threads = load(&flags, &[]).expect("right").transport_threads;
        assert_eq!(threads, TransportThreads::Dedicated);
    }
    std::fs::write(&path, "cores = 2\n\nwait = park\n").expect("written");
    let text = load(&flags, &[]).expect_err("no TOML").to_string();
    assert!(text.contains("settings.toml: line 3: "), "{text}");
    std::fs::write(&path, "cores = 2.5\ncolor = \"red\"\n").expect("written");
    let text = load(&flags, &[]).expect_err("two mistakes").to_string();
    assert!(
        text.contains("cores: give a text") && text.contains("color: there is no such setting"),
        "{text}"
    );
    std::fs::remove_dir_all(&dir).expect("removed");
}

#[test]
fn an_rdma_device_may_name_port_and_address() {
    let parse = |text: &str| text.parse::<RdmaDevice>();
    let device = |port, gid_index| RdmaDevice { name: "mlx5_0".into(), port, gid_index };
    assert_eq!(parse("mlx5_0"), Ok(device(None, None)));
    assert_eq!(parse("mlx5_0:1"), Ok(device(Some(1), None)));
    assert_eq!(parse("mlx5_0:1:3"), Ok(device(Some(1), Some(3))));
    for wrong in ["", ":1", "mlx5_0:", "mlx5_0:0", "mlx5_0:1:300", "mlx5_0:1:3:4"] {
        assert!(parse(wrong).is_err_and(|error| error.contains("NAME:PORT:GID_INDEX")), "{wrong}");
    }
    let flags =
        Flags { rdma_device: Some("rxe0:1".into()), transport: Some("rdma".into()), ..Flags::default() };
    let settings = load(&flags, &[]).expect("all is right");
    assert_eq!(settings.rdma_device.map(|device| device.name), Some("rxe0".into()));
    assert_eq!(settings.transport, TransportKind::Rdma);
}

#[test]
fn the_importance_over_tipc_is_a_word() {
    let flag = |word: &str| load(&Flags { tipc_importance: Some(word.into()), ..Flags::default() }, &[]);
    for (word, importance) in [
        ("low", TipcImportance::Low),
        ("medium", TipcImportance::Medium),
        ("high", TipcImportance::High),
        ("critical", TipcImportance::Critical),
    ] {
        assert_eq!(flag(word).map(|settings| settings.tipc_importance), Ok(importance), "{word}");
    }
    assert_eq!(load(&Flags::default(), &[]).expect("right").tipc_importance, TipcImportance::Medium);
    let given = load(&Flags::default(), &[("EPICSERVER_TIPC_IMPORTANCE", "high")]);
    assert_eq!(given.expect("right").tipc_importance, TipcImportance::High);
    for wrong in ["", "urgent", "3", "High"] {
        let refused = flag(wrong).expect_err(wrong).to_string();
        let part = "flag --tipc-importance: ";
        assert!(refused.contains(part) && refused.contains("\"low\", \"medium\""), "{wrong}: {refused}");
    }
}

#[test]
fn addresses_are_those_of_the_transport() {
    let with = |transport: &str, listen: &str| {
        let (transport, listen) = (Some(transport.into()), Some(listen.into()));
        load(&Flags { transport, listen, ..Flags::default() }, &[]).map(|settings| settings.listen)
    };
    assert_eq!(with("tipc", "tipc:4711:7"), Ok(Some("tipc:4711:7".into())));
    for (transport, listen) in [("tipc", "127.0.0.1:7700"), ("tcp", "tipc:4711:7"), ("rdma", "tipc:4711:7")] {
        let refused = with(transport, listen).expect_err("another network's");
        assert!(refused.to_string().contains(listen), "{refused}");
    }
}

#[test]
fn an_address_may_have_the_name_of_a_host() {
    let with = |seed: &str| {
        let secret_file = Some("secret".into());
        load(&Flags { seed: Some(seed.into()), secret_file, ..Flags::default() }, &[])
            .map(|settings| settings.seed)
    };
    for name in
        ["localhost:7000", "db-1.game.internal:7000", "db_1:7000", "keeper.example.org.:80", "[::1]:7"]
    {
        assert_eq!(with(name), Ok(vec![name.to_owned()]));
    }
    assert_eq!(with("a:1, b:2"), Ok(vec!["a:1".into(), "b:2".into()]));
    for wrong in [
        "localhost",
        ":7000",
        "localhost:",
        "localhost:70000",
        "a b:7",
        "a..b:7",
        "10.0.0.256:7",
        "10.1:7",
        "::1:7",
    ] {
        let refused = with(wrong).expect_err(wrong).to_string();
        assert!(refused.contains("is no address") && refused.contains("HOST:PORT"), "{wrong}: {refused}");
    }
}

#[test]
fn over_tipc_a_secret_is_enough_to_find_a_cluster() {
    let flags = Flags {
        transport: Some("tipc".into()),
        secret_file: Some("cluster.secret".into()),
        ..Flags::default()
    };
    let joining = load(&flags, &[]).expect("right");
    assert!(joining.finds_its_cluster() && joining.data_folder().is_none());
    let keeping = load(&Flags { data_dir: Some("here".into()), ..flags.clone() }, &[]).expect("right");
    assert_eq!((keeping.finds_its_cluster(), keeping.data_folder()), (false, Some("here".into())));
    let over_tcp = load(&Flags { transport: None, ..flags }, &[]).expect("right");
    assert!(!over_tcp.finds_its_cluster());
}

#[test]
fn a_budget_is_a_size_with_or_without_a_unit() {
    let load = |text: &str| load(&Flags::default(), &[("EPICSERVER_MEMORY_BUDGET", text)]);
    for (text, bytes) in
        [("4096", 4096), ("1B", 1), ("2KiB", 2 << 10), ("512 MiB", 512 << 20), ("3TiB", 3 << 40)]
    {
        assert_eq!(load(text).expect("a size").memory_budget, Some(bytes), "{text}");
    }
    for wrong in ["", "0", "MiB", "-1", "1.5GiB", "12 parsecs", "512mb", "18446744073709551615KiB"] {
        let refused = load(wrong).expect_err(wrong).to_string();
        assert!(refused.contains("is no size") && refused.contains("\"512MiB\""), "{wrong}: {refused}");
    }
    assert_eq!(Settings::default().memory_budget, None);
}

#[test]
fn a_short_life_is_counted_in_seconds() {
    let load = |text: &str| load(&Flags::default(), &[("EPICSERVER_SHORT_LIFE", text)]);
    for seconds in [0, 1, 3600] {
        assert_eq!(load(&seconds.to_string()).expect("a time").short_life, Duration::from_secs(seconds));
    }
    for wrong in ["", "-1", "1.5", "3601", "20s"] {
        let refused = load(wrong).expect_err(wrong).to_string();
        assert!(refused.contains("is no time: use seconds"), "{wrong}: {refused}");
    }
    assert_eq!(Settings::default().short_life, Duration::from_secs(20), "as the help says");
}

#[test]
fn a_secret_has_64_digits() {
    assert_eq!(parse_secret(&"0f".repeat(32)), Some([15; 32]));
    assert_eq!(parse_secret("0f"), None);
    assert_eq!(parse_secret(&"zz".repeat(32)), None);
}
