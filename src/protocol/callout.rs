//! What a NATS server asks about whoever connects, and what it gets: NATS ADR-26, "Authorization Callouts".
//!
//! Both are JWTs signed with NKEYs: the question with the server's, the answer with that of the issuer, which the server's
//! configuration names.

use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::api::Time;

/// Where servers ask.
pub const QUESTIONS: &str = "$SYS.REQ.USER.AUTH";

/// For whom a question is meant.
const AUDIENCE: &str = "nats-authorization-request";

/// So much of what somebody calls themselves is worth a log line.
const MAX_NAME: usize = 64;

/// A question about somebody who connects. It holds what they said to prove who they are, so it is never shown.
pub struct Question {
    server: String,
    user: String,
    /// The token that they showed.
    pub token: Option<String>,
    /// What they call themselves, and from where they come; for logs.
    pub client: String,
}

/// What somebody may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// What they are called where the server tells of its connections.
    pub name: String,
    /// The account that they belong to.
    pub account: String,
    /// The subjects that they may publish to.
    pub publish: Vec<String>,
    /// The subjects that they may subscribe; `subject group` only in that queue group.
    pub subscribe: Vec<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    nats: Asked,
}

#[derive(Deserialize)]
struct Asked {
    user_nkey: String,
    client_info: ClientInfo,
    connect_opts: ConnectOptions,
}

#[derive(Deserialize)]
struct ClientInfo {
    #[serde(default)]
    host: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ConnectOptions {
    auth_token: Option<String>,
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// It is none, or no server signed it; the text names nothing that was in it.
    pub fn read(payload: &[u8]) -> Result<Question, &'static str> {
        let jwt = std::str::from_utf8(payload).map_err(|_| "it is no text")?;
        let (signed, signature) = jwt.rsplit_once('.').ok_or("it is no JWT")?;
        let (_, claims) = signed.split_once('.').ok_or("it is no JWT")?;
        let claims: Claims = part(claims).ok_or("its claims cannot be read")?;
        let signature = BASE64URL_NOPAD
            .decode(signature.as_bytes())
            .map_err(|_| "its signature cannot be read")?;
        KeyPair::from_public_key(&claims.iss)
            .and_then(|server| server.verify(signed.as_bytes(), &signature))
            .map_err(|_| "its signature is wrong")?;
        // The key of a server begins with N: whoever else has one must not ask.
        if claims.aud != AUDIENCE || !claims.iss.starts_with('N') {
            return Err("it is no question of a server");
        }
        let ClientInfo { host, name } = claims.nats.client_info;
        Ok(Question {
            server: claims.iss,
            user: claims.nats.user_nkey,
            token: claims.nats.connect_opts.auth_token,
            client: format!(
                "{} at {host}",
                name.chars().take(MAX_NAME).collect::<String>()
            ),
        })
    }

    /// The answer that lets them in until then, as a JWT.
    ///
    /// # Errors
    /// The issuer's key does not sign.
    pub fn admit(
        &self,
        issuer: &KeyPair,
        rights: &Rights,
        now: Time,
        until: Time,
    ) -> Result<String, nkeys::error::Error> {
        let user = json!({
            "iss": issuer.public_key(), "sub": self.user, "aud": rights.account, "name": rights.name,
            "iat": now.0.as_second(), "exp": until.0.as_second(),
            "nats": {
                "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
                "pub": {"allow": rights.publish}, "sub": {"allow": rights.subscribe},
            },
        });
        let user = signed(issuer, &user)?;
        self.answer(issuer, json!({"jwt": user}), now)
    }

    /// The answer that keeps them out. Why is for the server's log; whoever connects is not told.
    ///
    /// # Errors
    /// The issuer's key does not sign.
    pub fn refuse(
        &self,
        issuer: &KeyPair,
        why: &str,
        now: Time,
    ) -> Result<String, nkeys::error::Error> {
        self.answer(issuer, json!({"error": why}), now)
    }

    fn answer(
        &self,
        issuer: &KeyPair,
        mut answer: Value,
        now: Time,
    ) -> Result<String, nkeys::error::Error> {
        answer["type"] = json!("authorization_response");
        answer["version"] = json!(2);
        let claims = json!({
            "iss": issuer.public_key(), "sub": self.user, "aud": self.server,
            "iat": now.0.as_second(), "nats": answer,
        });
        signed(issuer, &claims)
    }
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    let json = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    serde_json::from_slice(&json).ok()
}

/// A JWT as NATS has them.
fn signed(key: &KeyPair, claims: &Value) -> Result<String, nkeys::error::Error> {
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&header), part(claims));
    let signature = key.sign(text.as_bytes())?;
    Ok(format!("{text}.{}", BASE64URL_NOPAD.encode(&signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(server: &KeyPair, audience: &str) -> String {
        let claims = json!({
            "iss": server.public_key(), "aud": audience,
            "nats": {
                "user_nkey": "UAAA", "client_info": {"host": "10.0.0.7", "name": "compozy-executor"},
                "connect_opts": {"auth_token": "t0k3n", "protocol": 1},
            },
        });
        signed(server, &claims).unwrap()
    }

    fn claims(jwt: &str) -> Value {
        part(jwt.split('.').nth(1).unwrap()).unwrap()
    }

    #[test]
    fn a_question_of_a_server_is_read() {
        let question = Question::read(asked(&KeyPair::new_server(), AUDIENCE).as_bytes()).unwrap();
        assert_eq!(question.token.as_deref(), Some("t0k3n"));
        assert_eq!(question.client, "compozy-executor at 10.0.0.7");
    }

    #[test]
    fn what_no_server_signed_is_refused() {
        let server = KeyPair::new_server();
        let jwt = asked(&server, AUDIENCE);
        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let other = asked(&KeyPair::new_server(), AUDIENCE);
        let foreign = other.rsplit_once('.').unwrap().1;
        for wrong in [
            String::new(),
            signed.to_owned(),
            format!("{signed}.{foreign}"),
            format!("{signed}.!"),
            format!("a.{signature}"),
            asked(&server, "somebody-else"),
            asked(&KeyPair::new_user(), AUDIENCE),
        ] {
            let why = Question::read(wrong.as_bytes()).err().unwrap();
            assert!(!why.contains("t0k3n"), "{why}");
        }
    }

    #[test]
    fn answers_are_for_who_asked_and_signed_by_the_issuer() {
        let (server, issuer) = (KeyPair::new_server(), KeyPair::new_account());
        let question = Question::read(asked(&server, AUDIENCE).as_bytes()).unwrap();
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let rights = Rights {
            name: "shop/charge".to_owned(),
            account: "TOOLS".to_owned(),
            publish: vec!["a".to_owned()],
            subscribe: vec!["b group".to_owned()],
        };
        let until = now.after(std::time::Duration::from_secs(60));
        let admitted = question.admit(&issuer, &rights, now, until).unwrap();
        let (signed, signature) = admitted.rsplit_once('.').unwrap();
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        issuer.verify(signed.as_bytes(), &signature).unwrap();
        let answer = claims(&admitted);
        assert_eq!(answer["aud"], server.public_key());
        assert_eq!(answer["sub"], "UAAA");
        let user = claims(answer["nats"]["jwt"].as_str().unwrap());
        assert_eq!(user["aud"], "TOOLS");
        assert_eq!(user["exp"], 60);
        assert_eq!(user["nats"]["sub"], json!({"allow": ["b group"]}));

        let refused = claims(&question.refuse(&issuer, "no pod", now).unwrap());
        assert_eq!(refused["nats"]["error"], "no pod");
        assert_eq!(refused["nats"]["jwt"], Value::Null);
    }
}
