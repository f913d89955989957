//! Whatever the stream answers, the place is found again.

use super::*;
use jiff::Timestamp;
use rstest::rstest;

const UID: &str = "u";

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

/// The object's own events `from..=to`, a second apart.
fn history(from: u64, to: u64) -> Vec<Entry> {
    (from..=to)
        .map(|sequence| entry(sequence, Filter::Own))
        .collect()
}

fn entry(sequence: u64, filter: Filter) -> Entry {
    let at = at(1000 + i64::try_from(sequence).unwrap());
    Entry {
        sequence,
        at,
        filter,
    }
}

fn told(sequence: u64, stream_sequence: u64) -> Stored {
    Stored {
        stream_sequence,
        id: Some(format!("{UID}:{sequence}")),
        event_sequence: Some(sequence),
    }
}

fn publish(sequence: u64, expected_last: u64, lost: u64) -> Step {
    Step::Publish(Turn {
        expected_last,
        lost,
        ..turn(sequence, Filter::Own)
    })
}

fn turn(sequence: u64, filter: Filter) -> Turn {
    Turn {
        sequence,
        filter,
        expected_last: 0,
        by_reference: false,
        lost: 0,
    }
}

fn ack(sequence: u64, duplicate: bool) -> Result<PublishAck, PublishError> {
    Ok(PublishAck {
        sequence,
        duplicate,
    })
}

#[test]
fn a_new_chain_publishes_in_order_without_reading() {
    let mut chain = Chain::new(0, 0);
    let history = history(1, 2);
    assert_eq!(chain.step(&history), publish(1, 0, 0));
    assert_eq!(
        chain.published(&turn(1, Filter::Own), &ack(57, false)),
        Next::Stored
    );
    assert_eq!(chain.step(&history), publish(2, 57, 0));
    assert_eq!(
        chain.published(&turn(2, Filter::Own), &ack(60, true)),
        Next::Stored
    );
    assert_eq!(chain.step(&history), Step::Done);
    assert_eq!(chain.acknowledged(), 2);
    assert_eq!(chain.step(&[]), Step::Done);
}

#[rstest]
#[case(PublishError::InFlight, Next::Soon)]
#[case(PublishError::StreamMissing, Next::Ensure)]
#[case(PublishError::Timeout, Next::Later)]
#[case(PublishError::Unavailable("x".into()), Next::Later)]
fn what_may_pass_is_tried_again_as_it_was(#[case] error: PublishError, #[case] next: Next) {
    let mut chain = Chain::new(0, 0);
    chain.published(&turn(1, Filter::Own), &ack(5, false));
    let before = chain.step(&history(1, 3));
    assert_eq!(chain.published(&turn(2, Filter::Own), &Err(error)), next);
    assert_eq!(chain.step(&history(1, 3)), before);
}

#[test]
fn what_is_too_large_goes_by_reference_and_only_that() {
    let mut chain = Chain::new(0, 0);
    let history = history(1, 2);
    let too_large = Err(PublishError::TooLarge("1 MiB".into()));
    assert_eq!(
        chain.published(&turn(1, Filter::Own), &too_large),
        Next::Another
    );
    let by_reference = Step::Publish(Turn {
        by_reference: true,
        ..turn(1, Filter::Own)
    });
    assert_eq!(chain.step(&history), by_reference);
    // A server that refuses even that is tried again, with pauses.
    assert_eq!(
        chain.published(&turn(1, Filter::Own), &too_large),
        Next::Later
    );
    assert_eq!(chain.step(&history), by_reference);
    assert_eq!(
        chain.published(&turn(1, Filter::Own), &ack(1, false)),
        Next::Stored
    );
    assert_eq!(chain.step(&history), publish(2, 1, 0));
}

#[rstest]
#[case::stored_by_an_earlier_attempt(told(2, 9), publish(3, 9, 0))]
#[case::not_stored(told(1, 5), publish(2, 5, 0))]
#[case::somebody_knows_more(told(4, 11), Step::Done)]
fn a_wrong_sequence_is_resolved_by_the_last_message(#[case] stored: Stored, #[case] step: Step) {
    let mut chain = Chain::new(0, 0);
    chain.published(&turn(1, Filter::Own), &ack(4, false));
    let history = history(1, 3);
    assert_eq!(
        chain.published(&turn(2, Filter::Own), &Err(PublishError::WrongLastSequence)),
        Next::Another
    );
    assert_eq!(chain.step(&history), Step::Read(Filter::Own));
    assert!(!chain.read(UID, &Filter::Own, Some(&stored), 1));
    assert_eq!(chain.step(&history), step);
}

#[rstest]
#[case::stream_is_ahead(2, Some(told(3, 30)), publish(4, 30, 0))]
#[case::both_agree(3, Some(told(3, 30)), publish(4, 30, 0))]
#[case::server_lost_the_end(3, Some(told(1, 10)), publish(2, 10, 0))]
#[case::retention_took_all(3, None, publish(4, 0, 0))]
fn after_a_restart_the_stream_and_the_status_tell(
    #[case] acked: u64,
    #[case] stored: Option<Stored>,
    #[case] step: Step,
) {
    let mut chain = Chain::new(acked, 30);
    let history = history(1, 5);
    assert_eq!(chain.step(&history), Step::Read(Filter::Own));
    // What a status says may be old: it is no word of this stream that was broken.
    assert!(!chain.read(UID, &Filter::Own, stored.as_ref(), 40));
    assert_eq!(chain.step(&history), step);
}

#[test]
fn what_was_pruned_after_it_was_stored_is_not_lost() {
    let mut chain = Chain::new(3, 7);
    // Events 1 to 3 were pruned. A message of somebody else's is the last one.
    let foreign = Stored {
        stream_sequence: 8,
        id: None,
        event_sequence: Some(1),
    };
    chain.read(UID, &Filter::Own, Some(&foreign), 8);
    assert_eq!(chain.step(&history(4, 5)), publish(4, 8, 0));
}

#[rstest]
#[case::nothing_was_ever_removed(1)]
#[case::older_messages_are_left(20)]
fn a_stream_that_lost_the_chain_gets_it_again(#[case] first: u64) {
    let mut chain = Chain::new(4, 20);
    let history = history(3, 5);
    chain.read(UID, &Filter::Own, None, first);
    // 1 and 2 are nowhere any more: lost, and said so.
    assert_eq!(chain.step(&history), publish(3, 0, 2));
}

#[rstest]
#[case::all_of_it(None)]
#[case::its_end(Some(told(1, 10)))]
fn a_stream_that_does_not_have_what_it_acknowledged_is_found_out(#[case] stored: Option<Stored>) {
    let mut chain = Chain::new(0, 0);
    chain.published(&turn(1, Filter::Own), &ack(10, false));
    chain.published(&turn(2, Filter::Own), &ack(11, false));
    chain.published(&turn(3, Filter::Own), &Err(PublishError::WrongLastSequence));
    assert!(chain.read(UID, &Filter::Own, stored.as_ref(), 5));
}

const CALL: &str = "c";

/// Created, started, the call's beginning and end, and the task's.
fn with_a_call() -> Vec<Entry> {
    let mut history = history(1, 5);
    history[2].filter = call();
    history[3].filter = call();
    history
}

fn call() -> Filter {
    Filter::Call(CALL.to_owned())
}

fn publish_of_call(sequence: u64, expected_last: u64) -> Step {
    Step::Publish(Turn {
        expected_last,
        ..turn(sequence, call())
    })
}

/// A chain whose first events were stored behind each other.
fn told_up_to(acked: u64) -> Chain {
    let mut chain = Chain::new(0, 0);
    for entry in &with_a_call()[..usize::try_from(acked).unwrap()] {
        let turn = turn(entry.sequence, entry.filter.clone());
        chain.published(&turn, &ack(entry.sequence * 10, false));
    }
    chain
}

#[test]
fn the_events_of_a_call_take_their_turn_and_each_filter_keeps_its_end() {
    let history = with_a_call();
    let mut chain = told_up_to(2);
    // What the stream compares does not show whether the task's start is there.
    assert_eq!(chain.step(&history), Step::Read(Filter::Own));
    assert!(!chain.read(UID, &Filter::Own, Some(&told(2, 20)), 1));
    assert_eq!(chain.step(&history), publish_of_call(3, 0));
    chain.published(&turn(3, call()), &ack(30, false));
    assert_eq!(chain.step(&history), publish_of_call(4, 30));
    chain.published(&turn(4, call()), &ack(40, false));
    assert_eq!(chain.step(&history), Step::Read(call()));
    assert!(!chain.read(UID, &call(), Some(&told(4, 40)), 1));
    assert_eq!(chain.step(&history), publish(5, 20, 0));
    chain.published(&turn(5, Filter::Own), &ack(50, false));
    assert_eq!(chain.step(&history), Step::Done);
    assert_eq!((chain.acknowledged(), chain.last()), (5, 50));
}

#[test]
fn what_was_seen_is_looked_for_again_after_a_while() {
    let history = with_a_call();
    let mut chain = told_up_to(2);
    chain.read(UID, &Filter::Own, Some(&told(2, 20)), 1);
    chain.resume();
    assert_eq!(chain.step(&history), Step::Read(Filter::Own));
}

#[rstest]
#[case::its_last(told(4, 40), Step::Done, 4)]
#[case::its_first(told(3, 30), publish_of_call(4, 30), 3)]
fn what_a_call_has_already_is_found_where_it_is_refused(
    #[case] stored: Stored,
    #[case] step: Step,
    #[case] acked: u64,
) {
    let history = with_a_call();
    let mut chain = Chain::new(2, 20);
    assert_eq!(chain.step(&history), Step::Read(Filter::Own));
    assert!(!chain.read(UID, &Filter::Own, Some(&told(2, 20)), 1));
    assert_eq!(chain.step(&history), publish_of_call(3, 0));
    chain.published(&turn(3, call()), &Err(PublishError::WrongLastSequence));
    assert_eq!(chain.step(&history), Step::Read(call()));
    assert!(!chain.read(UID, &call(), Some(&stored), 1));
    assert_eq!(chain.step(&history[..4]), step);
    assert_eq!(chain.acknowledged(), acked);
}

#[rstest]
#[case::it_is_there(Some(told(4, 40)), publish(5, 20, 0))]
#[case::its_end_was_lost(Some(told(3, 30)), publish_of_call(4, 30))]
#[case::all_of_it_was_lost(None, publish_of_call(3, 0))]
fn after_a_restart_a_call_is_looked_for_where_it_was_remembered(
    #[case] stored: Option<Stored>,
    #[case] step: Step,
) {
    let history = with_a_call();
    let mut chain = Chain::new(4, 40);
    assert_eq!(chain.confirmed(), 0);
    assert_eq!(chain.step(&history), Step::Read(call()));
    assert!(!chain.read(UID, &call(), stored.as_ref(), 1));
    // Where its own end: that was not remembered.
    while chain.step(&history) == Step::Read(Filter::Own) {
        assert!(!chain.read(UID, &Filter::Own, Some(&told(2, 20)), 1));
    }
    assert_eq!(chain.step(&history), step);
}

#[test]
fn a_call_whose_events_had_their_time_is_not_told_again() {
    let history = with_a_call();
    let mut chain = Chain::new(4, 40);
    assert!(!chain.read(UID, &call(), None, 41));
    assert!(!chain.read(UID, &Filter::Own, None, 41));
    assert_eq!(chain.step(&history), publish(5, 0, 0));
}

#[rstest]
#[case::nothing_of_the_call(None, 2)]
#[case::its_end(Some(told(3, 30)), 3)]
fn a_stream_that_lost_what_a_call_was_told_is_found_out_before_the_next_event(
    #[case] stored: Option<Stored>,
    #[case] left: u64,
) {
    let mut chain = told_up_to(4);
    assert_eq!(chain.step(&with_a_call()), Step::Read(call()));
    assert!(chain.read(UID, &call(), stored.as_ref(), 1));
    assert_eq!(chain.acknowledged(), left);
}

#[test]
fn an_own_event_that_is_older_than_what_a_call_was_told_contradicts_nothing() {
    let mut chain = told_up_to(4);
    let own = turn(5, Filter::Own);
    assert!(!chain.read(UID, &call(), Some(&told(4, 40)), 1));
    chain.published(&own, &Err(PublishError::WrongLastSequence));
    assert!(!chain.read(UID, &Filter::Own, Some(&told(2, 20)), 1));
    assert_eq!(chain.acknowledged(), 4);
    // But one that is older than the last of its own does.
    chain.published(&own, &Err(PublishError::WrongLastSequence));
    assert!(chain.read(UID, &Filter::Own, Some(&told(1, 10)), 1));
    assert_eq!(chain.acknowledged(), 1);
}

#[rstest]
#[case::its_end(told(4, 40), publish(5, 0, 0))]
#[case::its_beginning(told(3, 30), publish_of_call(4, 30))]
fn what_limits_left_of_a_call_tells_how_far_the_object_is(
    #[case] stored: Stored,
    #[case] step: Step,
) {
    let history = with_a_call();
    let mut unknown = Chain::new(0, 0);
    let mut remembered = Chain::new(5, 50);
    // What was told of the object itself went: its first events with time, its end was lost.
    assert_eq!(remembered.step(&history), Step::Read(Filter::Own));
    assert!(!remembered.read(UID, &Filter::Own, None, 30));
    for chain in [&mut unknown, &mut remembered] {
        assert_eq!(chain.step(&history), Step::Read(call()));
        assert!(!chain.read(UID, &call(), Some(&stored), 30));
        assert_eq!(chain.step(&history), step);
    }
}

#[test]
fn what_was_told_behind_an_event_that_had_its_time_is_looked_for() {
    let history = with_a_call();
    // Remembered from before the call's end and the task's, of which limits took the first.
    let mut chain = Chain::new(3, 30);
    assert_eq!(chain.step(&history), Step::Read(call()));
    assert!(!chain.read(UID, &call(), None, 45));
    assert_eq!(chain.step(&history), Step::Read(Filter::Own));
    assert!(!chain.read(UID, &Filter::Own, Some(&told(5, 50)), 45));
    assert_eq!(chain.step(&history), Step::Done);
}

#[test]
fn an_object_of_which_nothing_is_left_is_told_from_its_beginning() {
    let of = |id: &str| Filter::Call(id.to_owned());
    let mut history = with_a_call();
    history[3].filter = of("d");
    let mut chain = Chain::new(0, 0);
    for call in [of("d"), call()] {
        assert_eq!(chain.step(&history), Step::Read(call.clone()));
        assert!(!chain.read(UID, &call, None, 1));
        chain.resume();
    }
    assert_eq!(chain.step(&history), publish(1, 0, 0));
}

/// Also after the end of the call's filter was forgotten for that of another one.
#[test]
fn an_event_that_was_told_and_is_gone_contradicts_nothing_later() {
    let mut chain = Chain::new(0, 0);
    chain.published(&turn(3, call()), &ack(61, false));
    let fourth = Turn {
        expected_last: 61,
        ..turn(4, call())
    };
    chain.published(&fourth, &ack(20, true));
    let other = Filter::Call("d".to_owned());
    assert!(!chain.read(UID, &other, None, 55));
    assert!(!chain.read(UID, &call(), Some(&told(3, 61)), 55));
    assert_eq!(chain.acknowledged(), 4);
}

#[test]
fn an_event_whose_id_the_server_knows_for_longer_than_its_message_was_told() {
    let history = with_a_call();
    let mut chain = Chain::new(0, 0);
    chain.published(&turn(1, Filter::Own), &ack(60, false));
    let second = Turn {
        expected_last: 60,
        ..turn(2, Filter::Own)
    };
    assert_eq!(chain.published(&second, &ack(20, true)), Next::Stored);
    assert_eq!(chain.acknowledged(), 2);
    assert_eq!(chain.step(&history), Step::Read(Filter::Own));
    assert!(!chain.read(UID, &Filter::Own, Some(&told(1, 60)), 55));
    assert_eq!(chain.step(&history), publish_of_call(3, 0));
    chain.published(&turn(3, call()), &ack(61, false));
    chain.published(&turn(4, call()), &ack(62, false));
    assert!(!chain.read(UID, &call(), Some(&told(4, 62)), 55));
    assert_eq!(chain.step(&history), publish(5, 60, 0));
}

#[test]
fn of_two_calls_at_once_each_finds_its_place() {
    let of = |id: &str| Filter::Call(id.to_owned());
    let filters = [Filter::Own, of("a"), of("b"), of("a"), of("b"), Filter::Own];
    let history: Vec<_> = (1..)
        .zip(filters)
        .map(|(sequence, filter)| entry(sequence, filter))
        .collect();
    let mut stored: Vec<(Filter, Stored)> = Vec::new();
    let mut chain = Chain::new(0, 0);
    for _ in 0..30 {
        let last = |filter: &Filter| {
            stored
                .iter()
                .rev()
                .find(|(of, _)| of == filter)
                .map(|(_, stored)| stored)
        };
        match chain.step(&history) {
            Step::Done => break,
            Step::Read(filter) => assert!(!chain.read(UID, &filter, last(&filter), 1)),
            Step::Publish(turn) => {
                let end = last(&turn.filter).map_or(0, |stored| stored.stream_sequence);
                let place = stored.len() as u64 + 1;
                let result = match end == turn.expected_last {
                    true => ack(place, false),
                    false => Err(PublishError::WrongLastSequence),
                };
                if result.is_ok() {
                    stored.push((turn.filter.clone(), told(turn.sequence, place)));
                }
                chain.published(&turn, &result);
            }
        }
    }
    let told: Vec<_> = stored
        .iter()
        .map(|(_, stored)| stored.event_sequence.unwrap())
        .collect();
    assert_eq!(told, [1, 2, 3, 4, 5, 6]);
}
