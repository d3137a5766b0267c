//! Fuzz target: frames from an unauthenticated peer, and their content.

use tokio::io::AsyncWriteExt;

use super::wire::{FrameReader, put_frame};
use crate::codec::{
    self, Body, Channel, DirSeen, DirShown, Hello, HelloDto, Request, Response, Welcome,
};

const FRAME_LEN_MAX: usize = 4_096;

/// A stream of frames is read to its end or refused. No frame is longer than the limit. A decoded value that
/// is encoded again is decoded to the same value.
pub(crate) fn frames(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime for one thread").block_on(async {
        let (mut sender, receiver) = tokio::io::duplex(97);
        let feed = async move {
            // The reader may have refused the rest.
            let _ = sender.write_all(bytes).await;
        };
        let read = async move {
            let mut reader = FrameReader::new(receiver, FRAME_LEN_MAX);
            while let Ok(Some((_, frame))) = reader.next().await {
                assert!(frame.len() <= FRAME_LEN_MAX);
                same::<Hello>(&frame);
                same::<Welcome>(&frame);
                same::<DirShown>(&frame);
                same::<DirSeen>(&frame);
                same::<Request>(&frame);
                same::<Response>(&frame);
            }
        };
        tokio::join!(feed, read);
    });
}

fn same<B: Body + PartialEq + std::fmt::Debug>(frame: &[u8]) {
    if let Ok(body) = codec::decode::<B>(frame) {
        let again = codec::encode(&body);
        assert_eq!(codec::decode::<B>(&again).as_ref(), Ok(&body));
    }
}

/// A greeting and its answer, requests and responses, one or several in a stream.
pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let hello = Hello::V1(HelloDto {
        cluster_id: "orders".into(),
        lineage: 7,
        node_id: 1,
        target_id: 2,
        channel: Channel::Append,
        app_version: 1,
        protocol_min: 1,
        protocol_max: 1,
    });
    let welcome = Welcome::Accepted {
        node_id: 2,
        app_version: 1,
        protocol: 1,
        lineage: 7,
        name: "node-2".into(),
        http_addr: "http://127.0.0.1:1".into(),
    };
    let mut greeting = Vec::new();
    put_frame(0, &hello, &mut greeting);
    put_frame(0, &DirShown { dir_id: 3, last: None }, &mut greeting);
    put_frame(1, &Request::App { body: vec![1; 24] }, &mut greeting);
    let mut answers = Vec::new();
    put_frame(0, &welcome, &mut answers);
    put_frame(
        0,
        &DirSeen::Known { shown: DirShown { dir_id: 4, last: None }, acknowledged: None, term: 1 },
        &mut answers,
    );
    put_frame(1, &Response::Proposed { index: 9, term: 2, reply: vec![0; 16] }, &mut answers);
    put_frame(2, &Response::Failed("why".into()), &mut answers);
    vec![greeting, answers]
}
