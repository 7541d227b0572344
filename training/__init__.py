"""How the bundled voice is made: texts -> a teacher's speech -> speech tokens -> vocoder, flow, T3 -> a checkpoint."""
