//! `--branch 'PARTICIPANT[@ENDPOINT][=PAYLOAD]'`

use std::str::FromStr;

use assent_proto::v1::BranchSpec;

use crate::cli::payload::Payload;
use crate::cli::{Exit, Failure};
use crate::config::Endpoint;

/// A branch as it is typed.
#[derive(Clone, Debug)]
pub struct BranchArg {
    participant: String,
    endpoint: Option<Endpoint>,
    payload: Payload,
}

impl FromStr for BranchArg {
    type Err = String;

    fn from_str(text: &str) -> Result<BranchArg, String> {
        let (target, payload) = text.split_once('=').unwrap_or((text, ""));
        let (participant, endpoint) = match target.split_once('@') {
            Some((participant, endpoint)) => {
                let endpoint =
                    endpoint.parse::<Endpoint>().map_err(|error| format!("{endpoint:?}: {error}"))?;
                (participant, Some(endpoint))
            }
            None => (target, None),
        };
        if participant.is_empty() {
            return Err("it must begin with a participant, such as shop/stock".to_owned());
        }
        Ok(BranchArg { participant: participant.to_owned(), endpoint, payload: Payload::from(payload) })
    }
}

/// Reads the payloads.
pub fn read_specs(branches: &[BranchArg]) -> Result<Vec<BranchSpec>, Failure> {
    if branches.iter().filter(|branch| branch.payload == Payload::Stdin).count() > 1 {
        return Err(Failure::new(Exit::Usage, "only one payload can be read from standard input"));
    }
    branches
        .iter()
        .map(|branch| {
            Ok(BranchSpec {
                participant: branch.participant.clone(),
                endpoint: branch.endpoint.as_ref().map(ToString::to_string).unwrap_or_default(),
                payload: branch.payload.read()?.into(),
                ..BranchSpec::default()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String, Payload) {
        let branch: BranchArg = text.parse().unwrap();
        (branch.participant, branch.endpoint.map(|at| at.to_string()).unwrap_or_default(), branch.payload)
    }

    #[test]
    fn participant_endpoint_and_payload_are_told_apart() {
        let text = |text: &str| Payload::Text(text.to_owned());
        assert_eq!(parsed("shop/stock"), ("shop/stock".into(), String::new(), text("")));
        assert_eq!(parsed("a={\"x\":\"b@c=d\"}"), ("a".into(), String::new(), text("{\"x\":\"b@c=d\"}")));
        assert_eq!(parsed("a@http://h:1=x"), ("a".into(), "http://h:1".into(), text("x")));
        assert_eq!(parsed("a=@/p/q"), ("a".into(), String::new(), Payload::File("/p/q".into())));
        assert_eq!(parsed("a=-"), ("a".into(), String::new(), Payload::Stdin));
        assert_eq!(parsed("a=--"), ("a".into(), String::new(), text("--")));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "=x", "@http://h:1", "a@h:1", "a@http://h"] {
            assert!(text.parse::<BranchArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn standard_input_is_read_once_at_most() {
        let twice: Vec<BranchArg> = ["a=-", "b=-"].map(|text| text.parse().unwrap()).into();
        assert_eq!(read_specs(&twice).unwrap_err().exit(), Exit::Usage);
    }
}
