"""The clients that people have: each speaks as its own documentation shows, with nothing changed but the address."""

import asyncio
import importlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile
from livekit.agents import APIConnectOptions, APIStatusError
from livekit.plugins.openai import TTS
from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner

from loadtest.sounds import clip
from tests.service import Service

pytestmark = pytest.mark.service
TEXT = "Hello there. This is streamed speech."
SECONDS = round(len(TEXT) * 1.7) * 0.04
"""What dummy:tiny says of it, by its rule of length."""


def test_openais_own_client_speaks(service: Service, tmp_path: Path) -> None:
    """With the arguments that its documentation shows; a voice of theirs is the default."""
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none")
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts", voice="coral", input=TEXT, instructions="Speak in a cheerful tone."
    ) as streamed:
        streamed.stream_to_file(tmp_path / "speech.mp3")
    samples, rate = soundfile.read(tmp_path / "speech.mp3")
    assert rate == 24_000
    assert len(samples) / rate == pytest.approx(SECONDS, abs=0.12)
    whole = client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT, response_format="wav", speed=1.5)
    assert whole.content[:4] == b"RIFF"
    with pytest.raises(openai.NotFoundError) as refused:
        client.audio.speech.create(model="tts-1", voice="nobody", input=TEXT)
    assert refused.value.param == "voice"


@pytest.mark.parametrize(("model", "form"), [("gpt-4o-mini-tts", "mp3"), ("gpt-4o-mini-tts", "pcm"), ("tts-1", "opus")])
def test_livekits_openai_speech_speaks(service: Service, model: str, form: str) -> None:
    """gpt-4o-mini-tts, its default, asks for events; tts-1 for plain audio."""

    async def speak() -> list[np.ndarray]:
        tts = TTS(base_url=f"{service.url}/v1", api_key="none", model=model, response_format=form)
        async with tts.synthesize(TEXT) as stream:
            heard = [np.frombuffer(audio.frame.data, "<i2") async for audio in stream]
        await tts.aclose()
        return heard

    heard = asyncio.run(speak())
    assert sum(map(len, heard)) / 24_000 == pytest.approx(SECONDS, abs=0.12)
    assert max(np.abs(samples).max() for samples in heard) > 300
    service.wait_until_idle()


def test_livekit_is_told_what_it_asked_wrongly(service: Service) -> None:
    async def speak() -> None:
        tts = TTS(base_url=f"{service.url}/v1", api_key="none", voice="nobody")
        async with tts.synthesize(TEXT, conn_options=APIConnectOptions(max_retry=0)) as stream:
            async for _ in stream:
                raise AssertionError("nobody spoke")

    with pytest.raises(APIStatusError) as refused:
        asyncio.run(speak())
    assert refused.value.status_code == 404


class Ear(FrameProcessor):
    """Keeps what a pipeline says."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[TTSAudioRawFrame] = []
        self.others: list[Frame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.heard.append(frame)
        elif isinstance(frame, ErrorFrame | TTSStoppedFrame):
            self.others.append(frame)
        await self.push_frame(frame, direction)


def test_pipecats_openai_speech_speaks(service: Service) -> None:
    """In a pipeline, two utterances one after the other."""

    async def run() -> Ear:
        ear = Ear()
        speech = OpenAITTSService(api_key="none", base_url=f"{service.url}/v1")
        worker = PipelineWorker(Pipeline([speech, ear]), cancel_on_idle_timeout=False)
        await worker.queue_frames([TTSSpeakFrame(TEXT), TTSSpeakFrame(TEXT), EndFrame()])
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()
        return ear

    ear = asyncio.run(asyncio.wait_for(run(), 60))
    assert not [frame for frame in ear.others if isinstance(frame, ErrorFrame)]
    samples = np.frombuffer(b"".join(frame.audio for frame in ear.heard), "<i2")
    assert {(frame.sample_rate, frame.num_channels) for frame in ear.heard} == {(24_000, 1)}
    assert len({frame.context_id for frame in ear.heard}) == 2
    assert len(samples) == pytest.approx(2 * SECONDS * 24_000, abs=2)
    service.wait_until_idle()


def test_a_client_generated_from_the_openapi_document_works(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = [sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{service.url}/openapi.json",
                 "--output-path", str(tmp_path / "generated"), "--meta", "none"]  # fmt: skip
    subprocess.run(generator, check=True, capture_output=True, timeout=120)
    monkeypatch.syspath_prepend(str(tmp_path))
    models = importlib.import_module("generated.models")
    api = {name: importlib.import_module(f"generated.api.default.{name}") for name in ("speech", "voices", "add_voice")}
    client = importlib.import_module("generated").Client(base_url=service.url)
    spoken = api["speech"].sync_detailed(client=client, body=models.SpeechBody(input_=TEXT, seed=1))
    assert (int(spoken.status_code), spoken.headers["x-seed"], len(spoken.content) > 1000) == (200, "1", True)
    refused = api["speech"].sync_detailed(client=client, body=models.SpeechBody(input_=""))
    assert refused.parsed.error.param == "input"
    file = importlib.import_module("generated.types").File(io.BytesIO(clip()), "hum.wav", "audio/wav")
    voice = api["add_voice"].sync(client=client, body=models.BodyAddVoice(file=file, name="Generated"))
    assert [one.name for one in api["voices"].sync(client=client).data] == ["default", "Generated"]
    delete = importlib.import_module("generated.api.default.delete_voice")
    assert delete.sync(voice_id=voice.id, client=client).deleted
