//! Handlers with real processes and a real web server.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::{Router, http::HeaderMap, http::StatusCode, routing::post};
use rstest::rstest;
use serde_json::{Value, json};

use super::{Exec, Handler, Http, Job, Stdio};
use crate::api::{ErrorInfo, Time};
use crate::protocol::pool::TaskExecute;
use crate::protocol::tool::{MAX_OUTPUT_BYTES, ToolExecute};

fn call(id: &str, input: Value) -> Job {
    Job::from(&ToolExecute {
        tool_id: "charge".into(),
        tool_exec_id: id.into(),
        input_args: input,
        reply_to_subject: "secret".into(),
        deadline: Time(jiff::Timestamp::UNIX_EPOCH),
        namespace: "shop".into(),
        workflow_id: "order".into(),
        workflow_exec_id: "w-uid".into(),
        task_id: "pay".into(),
        task_exec_id: "te-uid".into(),
        attempt: 2,
    })
}

fn task(handler: Option<&str>) -> Job {
    Job::from(&TaskExecute {
        task_exec_id: "te-uid".into(),
        attempt: 2,
        inputs: json!({"n": 1}),
        handler: handler.map(str::to_owned),
        timeout_ms: Some(1000),
        task_id: "pay".into(),
        workflow_id: "order".into(),
        workflow_exec_id: "w-uid".into(),
        namespace: "shop".into(),
        pool: "text".into(),
    })
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

fn exec(script: &str) -> Handler {
    Handler::Exec(Exec::new(shell(script)))
}

fn stdio(script: &str) -> Handler {
    Handler::Stdio(Stdio::start(shell(script)).unwrap())
}

async fn run(handler: &Handler, input: Value) -> Result<Value, ErrorInfo> {
    handler.run(&call("id", input)).await
}

/// A file that does not exist yet, and goes with the test.
struct File(PathBuf);

impl File {
    fn new() -> File {
        let name = format!("compozy-handler-{:016x}", fastrand::u64(..));
        File(std::env::temp_dir().join(name))
    }

    fn text(&self) -> Option<String> {
        std::fs::read_to_string(&self.0).ok()
    }

    async fn exists(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.text().is_none_or(|text| !text.ends_with('\n')) {
            assert!(Instant::now() < end, "{} is not written", self.0.display());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn runs(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A zombie has ended.
    status.is_ok_and(|status| !status.contains(") Z "))
}

#[tokio::test]
async fn a_process_reads_its_input_and_writes_its_output() {
    let handler = exec(
        r#"printf '{"got": %s, "id": "%s", "by": "%s/%s/%s"}' "$(cat)" \
        "$COMPOZY_TOOL_EXEC_ID" "$COMPOZY_WORKFLOW" "$COMPOZY_TASK" "$COMPOZY_ATTEMPT""#,
    );
    // What would be a command in a shell stays text.
    let input = json!({"text": "$(touch /tmp/x) \" ' ü"});
    let output = run(&handler, input.clone()).await.unwrap();
    assert_eq!(
        output,
        json!({"got": input, "id": "id", "by": "order/pay/2"})
    );
}

#[rstest]
#[case::nothing_is_an_empty_object("true", Ok(json!({})))]
#[case::input_need_not_be_read("exec 0<&-; echo '{\"a\": 1}'", Ok(json!({"a": 1})))]
#[case::no_object("echo 5", Err(("INVALID_OUTPUTS", "not a JSON object")))]
#[case::no_json("echo oops", Err(("INVALID_OUTPUTS", "\"oops")))]
#[case::too_large("head -c 300000 /dev/zero", Err(("OUTPUTS_TOO_LARGE", "256 KiB")))]
#[case::without_end("yes", Err(("OUTPUTS_TOO_LARGE", "256 KiB")))]
#[case::exit_code("echo why >&2; exit 7", Err(("EXIT_7", "why")))]
#[case::long_reason("yes no | head -c 100000 >&2; echo end >&2; exit 1", Err(("EXIT_1", "end")))]
#[case::silent("exit 1", Err(("EXIT_1", "exit status: 1")))]
#[case::signal("kill -9 $$", Err(("SIGNAL_9", "")))]
#[case::own_error(
    "echo '{\"error\": {\"message\": \"no money\", \"code\": \"POOR\"}}'; exit 1",
    Err(("POOR", "no money"))
)]
#[tokio::test]
async fn how_a_process_ends_is_how_the_call_ends(
    #[case] script: &str,
    #[case] end: Result<Value, (&str, &str)>,
) {
    match (
        run(&exec(script), json!({"big": "x".repeat(200_000)})).await,
        end,
    ) {
        (Ok(output), Ok(expected)) => assert_eq!(output, expected),
        (Err(error), Err((code, part))) => {
            assert_eq!(error.code, code, "{}", error.message);
            assert!(error.message.contains(part), "{}", error.message);
            assert!(error.message.len() <= 8192);
        }
        (outcome, _) => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let handler = Handler::Exec(Exec::new(vec!["/no/such/program".into()]));
    let error = run(&handler, json!({})).await.unwrap_err();
    assert_eq!(error.code, "HANDLER_NOT_STARTED");
    assert!(error.message.contains("/no/such/program"));
    assert!(Stdio::start(vec!["/no/such/program".into()]).is_err());
}

#[tokio::test]
async fn a_call_that_is_given_up_is_killed_with_all_that_it_started() {
    let pids = File::new();
    let script = format!("sleep 1000 & echo $! $$ > {}; wait", pids.0.display());
    let handler = exec(&script);
    {
        let input = json!({});
        let call = run(&handler, input);
        tokio::select! {
            biased;
            outcome = call => panic!("{outcome:?}"),
            () = pids.exists() => {}
        }
    }
    let text = pids.text().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while text.split_whitespace().any(runs) {
        assert!(Instant::now() < end, "{text} go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_a_process_leaves_behind_neither_goes_on_nor_holds_the_call_up() {
    let pid = File::new();
    let script = format!(
        "sleep 1000 & echo $! > {}; echo '{{\"a\": 1}}'",
        pid.0.display()
    );
    let began = Instant::now();
    assert_eq!(run(&exec(&script), json!({})).await, Ok(json!({"a": 1})));
    assert!(began.elapsed() < Duration::from_secs(20));
    let text = pid.text().unwrap();
    while runs(&text) {
        assert!(began.elapsed() < Duration::from_secs(40), "{text} goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers lines with sed: the id, and what stands in the input's field `n`.
const ECHO: &str =
    r#"exec sed -u -E 's/.*"id":"([^"]*)".*"n":([^,}]*).*/{"id":"\1","output":{"n":\2}}/'"#;

#[tokio::test]
async fn one_process_answers_all_calls_in_any_order() {
    let handler = stdio(
        r#"read a; read b
        echo "this is no answer"
        for line in "$b" "$a"; do echo "$line" | sed -E 's/.*"id":"([^"]*)".*/{"id":"\1","output":{"id":"\1"}}/'; done
        read c; echo '{"id":"c","error":{"message":"no money","code":"POOR","details":{"left":3}}}'
        read d; echo '{"id":"d","output":[]}'; read e"#,
    );
    let (first, second) = (call("a", json!({})), call("b", json!({})));
    let (a, b) = tokio::join!(handler.run(&first), handler.run(&second));
    assert_eq!(
        (a.unwrap(), b.unwrap()),
        (json!({"id": "a"}), json!({"id": "b"}))
    );
    let error = handler.run(&call("c", json!({}))).await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.details),
        ("POOR", Some(json!({"left": 3})))
    );
    let error = handler.run(&call("d", json!({}))).await.unwrap_err();
    assert_eq!(error.code, "INVALID_OUTPUTS");
}

#[tokio::test]
async fn a_process_is_told_the_call_but_not_where_its_answer_goes() {
    let lines = File::new();
    let handler = stdio(&format!(
        "read -r line; printf '%s\\n' \"$line\" > {}; echo '{{\"id\":\"id\",\"output\":{{}}}}'; read end",
        lines.0.display()
    ));
    run(&handler, json!({"a": [1, "x\ny"]})).await.unwrap();
    let told: Value = serde_json::from_str(&lines.text().unwrap()).unwrap();
    let expected = json!({"id": "id", "input": {"a": [1, "x\ny"]}, "tool_id": "charge", "tool_exec_id": "id",
        "namespace": "shop", "workflow_id": "order", "workflow_exec_id": "w-uid", "task_id": "pay",
        "task_exec_id": "te-uid", "attempt": 2, "deadline": "1970-01-01T00:00:00.000Z"});
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_task_of_a_pool_is_told_what_it_is() {
    let lines = File::new();
    let handler = stdio(&format!(
        "while read -r line; do printf '%s\\n' \"$line\" >> {}; echo '{{\"id\":\"te-uid.2\",\"output\":{{}}}}'; done",
        lines.0.display()
    ));
    for name in [Some("count"), None] {
        handler.run(&task(name)).await.unwrap();
    }
    let mut expected = json!({"id": "te-uid.2", "input": {"n": 1}, "handler": "count", "pool": "text",
        "namespace": "shop", "workflow_id": "order", "workflow_exec_id": "w-uid", "task_id": "pay",
        "task_exec_id": "te-uid", "attempt": 2});
    let told = lines.text().unwrap();
    let told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told[0], expected);
    expected.as_object_mut().unwrap().remove("handler");
    assert_eq!(told[1], expected);

    let handler = exec(
        "env | sed -nE 's/^COMPOZY_(.*)=(.*)/\"\\1\": \"\\2\"/p' | paste -sd, | sed 's/.*/{&}/'",
    );
    let environment = handler.run(&task(Some("count"))).await.unwrap();
    for (name, value) in [
        ("HANDLER", "count"),
        ("POOL", "text"),
        ("NAMESPACE", "shop"),
        ("WORKFLOW", "order"),
        ("WORKFLOW_EXEC_ID", "w-uid"),
        ("TASK", "pay"),
        ("TASK_EXEC_ID", "te-uid"),
        ("ATTEMPT", "2"),
        ("IDEMPOTENCY_KEY", "te-uid"),
    ] {
        assert_eq!(environment[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_process_that_dies_is_started_again_and_its_calls_are_told() {
    let seen = File::new();
    let script = format!(
        "if [ -e {seen} ]; then {ECHO}; fi; read line; echo x > {seen}; echo oh no >&2; exit 9",
        seen = seen.0.display()
    );
    let handler = stdio(&script);
    let error = run(&handler, json!({"n": 1})).await.unwrap_err();
    assert_eq!(error.code, "HANDLER_DIED");
    for part in ["exit status: 9", "oh no"] {
        assert!(error.message.contains(part), "{}", error.message);
    }
    assert_eq!(run(&handler, json!({"n": 2})).await, Ok(json!({"n": 2})));
}

#[tokio::test]
async fn a_call_that_is_given_up_ends_a_process_that_works_on_it_and_only_then() {
    let seen = File::new();
    let script = format!(
        "if [ -e {seen} ]; then {ECHO}; fi; read line; echo x > {seen}; exec sleep 1000",
        seen = seen.0.display()
    );
    let handler = stdio(&script);
    {
        let stuck = run(&handler, json!({"n": 1}));
        tokio::select! {
            biased;
            outcome = stuck => panic!("{outcome:?}"),
            () = seen.exists() => {}
        }
    }
    for n in 2..5 {
        assert_eq!(run(&handler, json!({"n": n})).await, Ok(json!({"n": n})));
    }
}

#[tokio::test]
async fn a_line_without_end_ends_the_process() {
    let handler = stdio("read line; tr '\\0' x < /dev/zero");
    let error = run(&handler, json!({})).await.unwrap_err();
    assert_eq!(error.code, "HANDLER_DIED");
    assert!(error.message.contains("longer than"), "{}", error.message);
}

/// A web server that answers with what it is asked for.
async fn server() -> String {
    let echo = |headers: HeaderMap, body: String| async move {
        let id = headers
            .get("compozy-tool-exec-id")
            .unwrap()
            .to_str()
            .unwrap();
        format!("{{\"got\": {body}, \"id\": \"{id}\"}}")
    };
    let large = || async { "x".repeat(MAX_OUTPUT_BYTES + 1) };
    let poor = || async { (StatusCode::PAYMENT_REQUIRED, "no money") };
    let routes = Router::new()
        .route("/echo", post(echo))
        .route("/empty", post(|| async {}))
        .route("/large", post(large))
        .route("/poor", post(poor))
        .route("/never", post(std::future::pending::<()>));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}

#[tokio::test]
async fn a_web_server_gets_the_input_and_answers_with_the_output() {
    let server = server().await;
    let post = async |path: &str| {
        let handler = Handler::Http(Http::new(&format!("{server}{path}")).unwrap());
        let done =
            tokio::time::timeout(Duration::from_secs(1), run(&handler, json!({"n": 1}))).await;
        done.map(|outcome| outcome.map_err(|error| (error.code, error.message)))
    };
    let output = json!({"got": {"n": 1}, "id": "id"});
    assert_eq!(post("/echo?a=b").await, Ok(Ok(output)));
    assert_eq!(post("/empty").await, Ok(Ok(json!({}))));
    let code = |outcome: Result<Result<Value, (String, String)>, _>| outcome.unwrap().unwrap_err();
    assert_eq!(code(post("/large").await).0, "OUTPUTS_TOO_LARGE");
    assert_eq!(
        code(post("/poor").await),
        ("HTTP_402".into(), "no money".into())
    );
    assert_eq!(code(post("/nowhere").await).0, "HTTP_404");
    assert!(post("/never").await.is_err());
}

#[tokio::test]
async fn a_web_server_that_is_not_there_is_said() {
    let handler = Handler::Http(Http::new("http://127.0.0.1:1/").unwrap());
    let error = run(&handler, json!({})).await.unwrap_err();
    assert_eq!(error.code, "HANDLER_UNREACHABLE");
    assert!(Http::new("https://localhost/").is_err());
    assert!(Http::new("/charge").is_err());
}
