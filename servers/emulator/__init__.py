"""An emulated GPU behind real protocols: OpenAI chat completions and KServe generate_stream.

No model runs. Tokens are words of a fixed vocabulary that says so; their *times* follow the physics of a given GPU
(``engine``), a claim (``claims``) or plain constants (``--fixed``). What the server really sent, and when, is in its
truth log. One process, one thread, one asyncio loop.

    python -m servers.emulator --stack-json cell.json --scenario chatbot --calibration roofline --truth-log truth.jsonl
    python -m servers.emulator --fixed ttft_s=0.1,itl_s=0.02,tokens=32
"""
